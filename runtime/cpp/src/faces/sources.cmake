# The face pipeline, for the target genedge.
set(GENEDGE_FACES_SOURCES
    ${CMAKE_CURRENT_LIST_DIR}/guard.cpp
    ${CMAKE_CURRENT_LIST_DIR}/match.cpp
    ${CMAKE_CURRENT_LIST_DIR}/regions.cpp
    ${CMAKE_CURRENT_LIST_DIR}/track.cpp
    ${CMAKE_CURRENT_LIST_DIR}/types.cpp)
# the same float arithmetic as numpy's, also on processors with fused multiply-add
set_source_files_properties(${GENEDGE_FACES_SOURCES} PROPERTIES COMPILE_OPTIONS -ffp-contract=off)

# The tests of the face pipeline. Pictures and traces are those that pytest reads too.
genedge_test(faces_guard "${PROJECT_SOURCE_DIR}/tests/data/traces")
genedge_test(faces_search "${PROJECT_SOURCE_DIR}/tests/data/face-search.json")
# OpenCV is built without the thread sanitizer, which does not see that it counts references to a frame, and that its
# threads for a filter have ended before the filter returns.
if(NOT GENEDGE_SANITIZE MATCHES "thread")
  genedge_test(faces_deid)
  genedge_test(faces_methods "${PROJECT_SOURCE_DIR}/tests/data/covers")
endif()
genedge_test(faces_keys "${PROJECT_SOURCE_DIR}/tests/data/covers/picture.png")

if(TEST genedge_run)
  add_test(NAME genedge_deid
           COMMAND "${GENEDGE_PYTHON}" -m pytest -q -p no:cacheprovider tests/cpp/test_genedge_deid.py
           WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}")
  set_tests_properties(genedge_deid PROPERTIES LABELS cpu TIMEOUT 900
                       ENVIRONMENT "GENEDGE_RUN=$<TARGET_FILE:genedge-run>")
endif()

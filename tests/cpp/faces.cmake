# The tests of the face pipeline. Pictures and traces are those that pytest reads too.
genedge_test(faces_guard "${PROJECT_SOURCE_DIR}/tests/data/traces")
genedge_test(faces_methods "${PROJECT_SOURCE_DIR}/tests/data/covers")
genedge_test(faces_search "${PROJECT_SOURCE_DIR}/tests/data/face-search.json")
genedge_test(faces_deid)

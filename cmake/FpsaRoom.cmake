# One static library per room. fpsa_room(name SOURCES a.cc b.cc DEPENDS other_room external::target)
# The room foo becomes the target fpsa_foo; a DEPENDS entry without "::" that names a room is written
# fpsa_<room>. Include paths start at the source root: #include "fpsa/<room>/<file>.h".
function(fpsa_room name)
  cmake_parse_arguments(ROOM "" "" "SOURCES;DEPENDS" ${ARGN})
  add_library(fpsa_${name} STATIC ${ROOM_SOURCES})
  target_include_directories(fpsa_${name} PUBLIC $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}>)
  target_link_libraries(fpsa_${name} PUBLIC ${ROOM_DEPENDS})
endfunction()

# fpsa_test(name SOURCES x_test.cc DEPENDS fpsa_room LABELS core|torch|slow [TIMEOUT seconds])
# One test binary; every case in it is run by one ctest entry that carries the labels.
function(fpsa_test name)
  cmake_parse_arguments(TEST "" "TIMEOUT" "SOURCES;DEPENDS;LABELS" ${ARGN})
  add_executable(${name} ${TEST_SOURCES})
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE ${TEST_DEPENDS} GTest::gtest GTest::gtest_main)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  if(NOT TEST_TIMEOUT)
    set(TEST_TIMEOUT 300)
  endif()
  set_tests_properties(${name} PROPERTIES LABELS "${TEST_LABELS}" TIMEOUT ${TEST_TIMEOUT})
endfunction()

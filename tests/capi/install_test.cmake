# Installs the library into an empty prefix and builds and runs the example programs against it, from C and from C++,
# by find_package and by pkg-config.
set(PREFIX ${SCRATCH}/prefix)
file(REMOVE_RECURSE ${SCRATCH})

function(run_ok)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "${command}: ${status}\n${output}")
  endif()
  message("${output}")
endfunction()

run_ok(${CMAKE_COMMAND} --install ${BUILD} --prefix ${PREFIX} --component library)

run_ok(${CMAKE_COMMAND} -S ${EXAMPLES} -B ${SCRATCH}/build -DCMAKE_PREFIX_PATH=${PREFIX} -DCMAKE_C_COMPILER=${CC}
  -DCMAKE_CXX_COMPILER=${CXX})
run_ok(${CMAKE_COMMAND} --build ${SCRATCH}/build)
run_ok(${SCRATCH}/build/attention_c)
run_ok(${SCRATCH}/build/attention_cpp)

set(ENV{PKG_CONFIG_PATH} ${PREFIX}/${LIBDIR}/pkgconfig)
execute_process(COMMAND ${PKG_CONFIG} --cflags --libs fpsa OUTPUT_VARIABLE flags OUTPUT_STRIP_TRAILING_WHITESPACE
  RESULT_VARIABLE status ERROR_VARIABLE error)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "pkg-config: ${status} ${error}")
endif()
separate_arguments(flags UNIX_COMMAND "${flags}")
set(ENV{LD_LIBRARY_PATH} ${PREFIX}/${LIBDIR})
run_ok(${CC} -std=c99 -Wall -Wextra -pedantic -Werror -O2 ${EXAMPLES}/attention.c ${flags} -lm -o ${SCRATCH}/c)
run_ok(${SCRATCH}/c)
run_ok(${CXX} -std=c++20 -Wall -Wextra -Werror -O2 ${EXAMPLES}/attention.cpp ${flags} -o ${SCRATCH}/cpp)
run_ok(${SCRATCH}/cpp)

# Every installed header brings what it needs: the tree is complete without the sources.
file(GLOB_RECURSE headers RELATIVE ${PREFIX}/include ${PREFIX}/include/*.h)
list(LENGTH headers count)
if(count LESS 20)
  message(FATAL_ERROR "expected the headers of the interface, found: ${headers}")
endif()
set(all "")
foreach(header IN LISTS headers)
  string(APPEND all "#include <${header}>\n")
endforeach()
file(WRITE ${SCRATCH}/all.cc "${all}")
run_ok(${CXX} -std=c++20 -Wall -Wextra -Werror -fsyntax-only -I${PREFIX}/include ${SCRATCH}/all.cc)

# Finds libtorch inside an installed torch wheel and defines the target fpsa::torch.
#
# The wheel's own package file is not used: with a CUDA build of torch it demands a CUDA toolkit, which the
# engine does not need. The three libraries that both builds have are linked by hand instead.
#
# FPSA_TORCH_DIR names the torch package folder (the one with include/ and lib/). When it is empty, the
# project's own .venv is asked, then python3. pip asks the interpreter that it installs for, and no other: with -I it
# answers for its own environment, whatever build environment pip puts around it.
set(FPSA_TORCH_DIR "" CACHE PATH "Folder of the torch package (holds include/ and lib/)")

if(NOT FPSA_TORCH_DIR)
  set(pythons ${CMAKE_SOURCE_DIR}/.venv/bin/python python3)
  set(remember CACHE PATH "Folder of the torch package" FORCE)
  if(SKBUILD)
    set(pythons ${Python_EXECUTABLE})
    set(remember)  # the same build folder may serve another environment next time
  endif()
  foreach(python ${pythons})
    execute_process(
      COMMAND ${python} -I -c "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
      OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE status)
    if(status EQUAL 0 AND EXISTS ${found}/lib/libtorch_cpu.so)
      set(FPSA_TORCH_DIR ${found} ${remember})
      break()
    endif()
  endforeach()
endif()
if(SKBUILD AND NOT EXISTS "${FPSA_TORCH_DIR}/lib/libtorch_cpu.so")
  message(FATAL_ERROR "torch is not installed in the environment of ${Python_EXECUTABLE}. Install it first (pip install "
    "torch), since the package is built against it; where the build runs in another environment (uv, build), pass "
    "--no-build-isolation, or -C cmake.define.FPSA_TORCH_DIR=<site-packages>/torch")
endif()
if(NOT EXISTS "${FPSA_TORCH_DIR}/lib/libtorch_cpu.so")
  message(FATAL_ERROR "libtorch not found (FPSA_TORCH_DIR='${FPSA_TORCH_DIR}'). Run scripts/bootstrap.sh, which "
    "installs torch into .venv, or pass -DFPSA_TORCH_DIR=<site-packages>/torch, or build without torch: "
    "cmake --preset core")
endif()
message(STATUS "libtorch: ${FPSA_TORCH_DIR}")

find_package(Threads REQUIRED)
# at::parallel_for is a template: without OpenMP in our own objects it compiles to a serial loop. The runtime is
# the one in the wheel where it brings its own, so that there is only one.
find_package(OpenMP REQUIRED COMPONENTS CXX)
file(GLOB FPSA_OPENMP_RUNTIME ${FPSA_TORCH_DIR}/lib/libgomp*.so*)
if(NOT FPSA_OPENMP_RUNTIME OR NOT CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  set(FPSA_OPENMP_RUNTIME OpenMP::OpenMP_CXX)
endif()
add_library(fpsa_torch_headers INTERFACE)
add_library(fpsa::torch ALIAS fpsa_torch_headers)
target_include_directories(fpsa_torch_headers SYSTEM INTERFACE
  ${FPSA_TORCH_DIR}/include ${FPSA_TORCH_DIR}/include/torch/csrc/api/include)
target_link_libraries(fpsa_torch_headers INTERFACE
  # Nothing of libtorch.so itself is used, but it brings libtorch_cuda where the wheel has one.
  -Wl,--push-state,--no-as-needed ${FPSA_TORCH_DIR}/lib/libtorch.so -Wl,--pop-state ${FPSA_TORCH_DIR}/lib/libtorch_cpu.so ${FPSA_TORCH_DIR}/lib/libc10.so
  ${FPSA_OPENMP_RUNTIME} Threads::Threads)
separate_arguments(FPSA_OPENMP_FLAGS UNIX_COMMAND "${OpenMP_CXX_FLAGS}")
target_compile_options(fpsa_torch_headers INTERFACE ${FPSA_OPENMP_FLAGS})
# libtorch_cpu is built with the new string ABI since 2.6, which is g++'s default: no definition is needed.
list(APPEND CMAKE_BUILD_RPATH ${FPSA_TORCH_DIR}/lib)
# cmake --install strips the build RUNPATH; installed binaries look beside themselves, then in the wheel.
list(APPEND CMAKE_INSTALL_RPATH "$ORIGIN/../lib" ${FPSA_TORCH_DIR}/lib)

# Parsing ATen's headers is most of the time that a file on torch takes to compile. All of them share one precompiled
# copy; -fPIC, because a copy is usable only with the code model that it was made for, and executables have another one.
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/torch_headers.cc CONTENT "// Only its precompiled header is used.\n")
add_library(fpsa_precompiled_torch OBJECT ${CMAKE_BINARY_DIR}/torch_headers.cc)
target_link_libraries(fpsa_precompiled_torch PRIVATE fpsa::torch)
target_precompile_headers(fpsa_precompiled_torch PRIVATE <ATen/ATen.h>)
target_compile_options(fpsa_precompiled_torch PRIVATE -fPIC)
# fpsa_precompile_torch(target [headers]): of the target fpsa_precompiled_<headers>, torch unless named.
function(fpsa_precompile_torch target)
  set(headers torch ${ARGN})
  list(GET headers -1 headers)
  target_compile_options(${target} PRIVATE -fPIC $<$<CXX_COMPILER_ID:GNU>:-fpch-preprocess>)  # the latter for ccache
  target_precompile_headers(${target} REUSE_FROM fpsa_precompiled_${headers})
endfunction()

# The sources of tests have a copy of their own, with GoogleTest and at -O1: what is tested is in the libraries, and
# optimising code that runs once takes longer than running it.
if(FPSA_TESTS)
  add_library(fpsa_precompiled_torch_tests OBJECT ${CMAKE_BINARY_DIR}/torch_headers.cc)
  target_link_libraries(fpsa_precompiled_torch_tests PRIVATE fpsa::torch GTest::gtest)
  target_precompile_headers(fpsa_precompiled_torch_tests PRIVATE <ATen/ATen.h> <gtest/gtest.h>)
  target_compile_options(fpsa_precompiled_torch_tests PRIVATE -fPIC -O1)
endif()

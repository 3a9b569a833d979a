# fpsa_cuda_sources(target a.cu ...): compiles for sm_90a with nvcc and links the CUDA runtime, statically.
# Not CMake's CUDA language: its first step compiles for architectures that nvcc 13 no longer knows.
find_program(FPSA_NVCC nvcc HINTS /usr/local/cuda/bin)
if(NOT FPSA_NVCC)
  message(FATAL_ERROR "FPSA_CUDA=ON: expected nvcc 13 on the PATH or in /usr/local/cuda/bin, found none; "
    "install it, or configure with the release preset")
endif()
get_filename_component(nvcc_folder ${FPSA_NVCC} REALPATH)
get_filename_component(nvcc_folder ${nvcc_folder} DIRECTORY)
find_library(FPSA_CUDART cudart_static HINTS ${nvcc_folder}/../lib64 /usr/local/cuda/lib64 REQUIRED)
find_package(Threads REQUIRED)

function(fpsa_cuda_sources target)
  file(GLOB_RECURSE headers CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/fpsa/kernel/cuda/*.h)
  foreach(source IN LISTS ARGN)
    get_filename_component(source ${source} ABSOLUTE)
    get_filename_component(name ${source} NAME)
    set(object ${CMAKE_CURRENT_BINARY_DIR}/${name}.o)
    add_custom_command(OUTPUT ${object}
      COMMAND ${FPSA_NVCC} -std=c++20 -O3 -gencode arch=compute_90a,code=sm_90a -Xcompiler -fPIC -I${CMAKE_SOURCE_DIR}
        -c ${source} -o ${object}
      DEPENDS ${source} ${headers} ${CMAKE_SOURCE_DIR}/fpsa/base/check.h COMMENT "Compiling ${name} for sm_90a")
    target_sources(${target} PRIVATE ${object})
    set_source_files_properties(${object} PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
  endforeach()
  target_link_libraries(${target} PUBLIC ${FPSA_CUDART} Threads::Threads ${CMAKE_DL_LIBS} rt)
endfunction()

# Compiler-wide settings: ccache when present, a fast linker when present, warnings, sanitizers.
find_program(FPSA_CCACHE ccache)
if(FPSA_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # Without the first ccache leaves files with a precompiled header to the compiler; with the second, paths in the tree are
  # the same from every build folder in it, so that the wheel's build finds what the program's made (scripts/check_wheel.sh).
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros
    CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} ${FPSA_CCACHE})
endif()

find_program(FPSA_MOLD mold)
if(FPSA_MOLD AND CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
  add_link_options(-fuse-ld=mold)
endif()

add_compile_options(-Wall -Wextra -Wno-unused-parameter)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  add_compile_options(-Wno-psabi)
endif()

if(FPSA_SANITIZE)
  # Lines for stack traces, and no more: following variables through optimised code is a fifth of the compiler's time.
  add_compile_options(-g1)
  add_compile_options(-fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
  add_link_options(-fsanitize=address,undefined)
endif()

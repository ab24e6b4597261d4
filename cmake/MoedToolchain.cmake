set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
# MOED_CHECK stays on in every build; nothing here depends on NDEBUG.
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -DNDEBUG")

# A designated initialiser leaves the rest to their defaults on purpose.
set(_moed_warnings -Wall -Wextra -Wno-psabi -Wno-missing-field-initializers)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
  list(APPEND _moed_warnings -Wshadow=local)
else()
  list(APPEND _moed_warnings -Wshadow)
endif()
add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:${_moed_warnings}>")

# What every test runs with: where the sanitizers stop, and what they may overlook (tests/support/sanitizers). How many
# times longer tests may take, which Python programs learn by MOED_TEST_SLOWDOWN.
set(MOED_TEST_ENVIRONMENT "")
set(MOED_TEST_SLOWDOWN 1)
if(MOED_SANITIZE)
  # -O1: compiles in half the time, and stack traces name the lines that one reads.
  set(CMAKE_CXX_FLAGS_RELEASE "-O1 -DNDEBUG")
  set(_moed_suppressions ${CMAKE_CURRENT_SOURCE_DIR}/tests/support/sanitizers)
  set(MOED_TEST_SLOWDOWN 4)
  list(APPEND MOED_TEST_ENVIRONMENT
    MOED_TEST_SLOWDOWN=${MOED_TEST_SLOWDOWN}
    "ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1"
    "LSAN_OPTIONS=suppressions=${_moed_suppressions}/lsan.supp:print_suppressions=0"
    "UBSAN_OPTIONS=print_stacktrace=1"
    "TSAN_OPTIONS=suppressions=${_moed_suppressions}/tsan.supp:ignore_noninstrumented_modules=1:second_deadlock_stack=1")
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${MOED_SANITIZE}> -fno-omit-frame-pointer -g1)
  if(MOED_SANITIZE MATCHES undefined)
    add_compile_options(-fno-sanitize-recover=undefined)
  endif()
  add_link_options(-fsanitize=${MOED_SANITIZE})
endif()

find_program(MOED_CCACHE ccache)
if(MOED_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${MOED_CCACHE})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${MOED_CCACHE})
endif()

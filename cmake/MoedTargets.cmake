# moed_library(<layer> SOURCES … [DEPS …] [PRIVATE_DEPS …])
# The static library moed_<layer> with the alias moed::<layer>. Includes are written from src/ ("base/status.h"),
# from the root ("kernels/gemm/gemm.h") or from the generated protos ("moed/v1/inference.pb.h").
function(moed_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;PRIVATE_DEPS" ${ARGN})
  add_library(moed_${name} STATIC ${ARG_SOURCES})
  add_library(moed::${name} ALIAS moed_${name})
  target_include_directories(moed_${name} PUBLIC ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR})
  target_link_libraries(moed_${name} PUBLIC ${ARG_DEPS} PRIVATE ${ARG_PRIVATE_DEPS})
endfunction()

# moed_cpu_bodies(<target> SOURCES <op>_cpu.cc … [ISAS generic avx2 avx512 …])
# Compiles the sources once for every instruction set into object libraries <op>_cpu_<isa> (named after the first
# source), with MOED_ISA naming the namespace of the body; kernels/common/cpu_dispatch.h chooses one at run time. The
# bodies include plain-data headers only: an inline function of the standard library compiled here for AVX-512 could
# otherwise be the copy that the linker keeps for everyone.
if(MOED_SANITIZE)
  set(_moed_body_optimisation -O1)
else()
  set(_moed_body_optimisation -O3)
endif()
set(MOED_ISA_FLAGS_generic "")
set(MOED_ISA_FLAGS_avx2 -mavx2 -mfma -mf16c -mbmi2)
set(MOED_ISA_FLAGS_avx_vnni ${MOED_ISA_FLAGS_avx2} -mavxvnni)
set(MOED_ISA_FLAGS_avx512 -march=x86-64-v4)
set(MOED_ISA_FLAGS_avx512_vnni -march=x86-64-v4 -mavx512vnni)
set(MOED_ISA_FLAGS_avx512_bf16 ${MOED_ISA_FLAGS_avx512_vnni} -mavx512bf16)
set(MOED_ISA_FLAGS_amx ${MOED_ISA_FLAGS_avx512_bf16} -mamx-tile -mamx-int8 -mamx-bf16)
# Those that differ in how they multiply weights.
set(MOED_BYTE_DOT_ISAS generic avx2 avx_vnni avx512 avx512_vnni)
set(MOED_PRODUCT_ISAS generic avx2 avx_vnni avx512 avx512_vnni avx512_bf16 amx)
function(moed_cpu_bodies target)
  cmake_parse_arguments(ARG "" "" "SOURCES;ISAS" ${ARGN})
  if(NOT ARG_ISAS)
    set(ARG_ISAS generic avx2 avx512)
  endif()
  list(GET ARG_SOURCES 0 first_source)
  get_filename_component(name ${first_source} NAME_WE)
  foreach(isa IN LISTS ARG_ISAS)
    if(NOT isa STREQUAL generic AND NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
      continue()
    endif()
    add_library(${name}_${isa} OBJECT ${ARG_SOURCES})
    target_link_libraries(${name}_${isa} PRIVATE moed::base moed::tensor)  # for their compile definitions
    target_include_directories(${name}_${isa} PRIVATE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR})
    target_compile_options(${name}_${isa} PRIVATE ${_moed_body_optimisation} -ffp-contract=fast -fno-math-errno ${MOED_ISA_FLAGS_${isa}})
    target_compile_definitions(${name}_${isa} PRIVATE MOED_ISA=${isa} MOED_ISA_${isa}=1)
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:${name}_${isa}>)
  endforeach()
endfunction()

# moed_cuda_bodies(<target> SOURCES <op>_cuda.cu …)
# Compiles the sources with nvcc for all architectures, in builds with CUDA. (Tests compile the same files for the CPU:
# cmake/MoedSimt.cmake.)
function(moed_cuda_bodies target)
  cmake_parse_arguments(ARG "" "" "SOURCES" ${ARGN})
  if(MOED_HAVE_CUDA)
    target_sources(${target} PRIVATE ${ARG_SOURCES})
    # Headers that assign an absl::Status look to nvcc as if they dropped one.
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--diag-suppress=2810>)
  endif()
endfunction()

# moed_test(<name> SOURCES … [DEPS …] [LABELS …])
# A GoogleTest program; ctest runs it as one test (a shared fixture is loaded once), from the source tree's root. In the
# portable build the sources of all tests make one program, moed_tests, which holds what they link once.
function(moed_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPS;LABELS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  math(EXPR ARG_TIMEOUT "${MOED_TEST_SLOWDOWN} * ${ARG_TIMEOUT}")
  set(program ${name})
  if(MOED_STATIC)
    set(program moed_tests)
  endif()
  if(NOT TARGET ${program})
    add_executable(${program})
    if(MOED_STATIC)
      set_target_properties(${program} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
      target_compile_options(${program} PRIVATE -Os)  # it travels
    endif()
    target_include_directories(${program} PRIVATE ${PROJECT_SOURCE_DIR})
    target_link_libraries(${program} PRIVATE GTest::gmock GTest::gtest GTest::gtest_main)
  endif()
  target_sources(${program} PRIVATE ${ARG_SOURCES})
  target_link_libraries(${program} PRIVATE ${ARG_DEPS})
  if(MOED_STATIC)
    return()  # tests/CMakeLists.txt adds the one test
  endif()
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}"
    ENVIRONMENT "${MOED_TEST_ENVIRONMENT}")
endfunction()

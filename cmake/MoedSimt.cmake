# The CUDA bodies on the CPU, thread for thread (tests/support/simt/README.md): needs CUDA's headers, not its compiler
# nor a GPU, and Boost.Context (libboost-context-dev).
find_path(MOED_CUDA_INCLUDE_DIR cuda_runtime_api.h
  HINTS ${CUDAToolkit_INCLUDE_DIRS} $ENV{CUDA_HOME}/include /usr/local/cuda/include)
find_library(MOED_BOOST_CONTEXT boost_context)
find_path(MOED_BOOST_INCLUDE_DIR boost/context/detail/fcontext.hpp)
set(MOED_HAVE_SIMT FALSE)
if(MOED_STATIC)
  # One program cannot hold the bodies for the CPU and those of nvcc, which have the same names.
elseif(MOED_CUDA_INCLUDE_DIR AND MOED_BOOST_CONTEXT AND MOED_BOOST_INCLUDE_DIR)
  set(MOED_HAVE_SIMT TRUE)
else()
  message(STATUS "moed: the CUDA bodies are not tested on the CPU: CUDA's headers or Boost.Context were not found")
endif()

# What every program of the shim is compiled with. CUDA's headers reinterpret memory, hence no-strict-aliasing.
if(MOED_HAVE_SIMT)
  add_library(moed_simt STATIC ${PROJECT_SOURCE_DIR}/tests/support/simt/runtime.cc
    ${PROJECT_SOURCE_DIR}/tests/support/simt/scheduler.cc)
  target_include_directories(moed_simt PUBLIC ${PROJECT_SOURCE_DIR})
  target_include_directories(moed_simt SYSTEM PUBLIC ${MOED_CUDA_INCLUDE_DIR} PRIVATE ${MOED_BOOST_INCLUDE_DIR})
  target_compile_options(moed_simt PUBLIC -fno-strict-aliasing -Wno-unknown-pragmas)
  target_link_libraries(moed_simt PUBLIC ${MOED_BOOST_CONTEXT} Threads::Threads)
endif()

# moed_simt_test(<name> SOURCES … CUDA_SOURCES <op>_cuda.cu …)
# A test program (label simt) that runs CUDA sources on the CPU; nothing where the shim cannot be built.
function(moed_simt_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;CUDA_SOURCES" ${ARGN})
  if(NOT MOED_HAVE_SIMT)
    return()
  endif()
  add_library(${name}_cuda OBJECT ${ARG_CUDA_SOURCES})
  set_source_files_properties(${ARG_CUDA_SOURCES} PROPERTIES LANGUAGE CXX)
  target_compile_options(${name}_cuda PRIVATE -include ${PROJECT_SOURCE_DIR}/tests/support/simt/simt.h)
  target_include_directories(${name}_cuda PRIVATE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name}_cuda PRIVATE moed_simt moed::tensor)
  moed_test(${name} SOURCES ${ARG_SOURCES} $<TARGET_OBJECTS:${name}_cuda> DEPS moed::kernels moed_simt LABELS simt)
endfunction()

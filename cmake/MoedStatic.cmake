# Preset portable: programs that need nothing from the machine that they are carried to but libc and its parts (and the
# CUDA driver, where there is a GPU). libc stays shared: a static one cannot resolve host names nor load the driver.

# Debian has archives of all that moed links but fmt and spdlog, whose compiled halves cmake/static makes. Its CMake and
# pkg-config files name the shared libraries all the same, so these are exchanged after they were found.

# moed_archive_of(<library> <result>): the archive beside a shared library (…/libz.so.1.2 → …/libz.a) or that of -lz;
# else, and for the parts of libc, the library itself.
function(moed_archive_of library result)
  set(${result} ${library} PARENT_SCOPE)
  set(archive)
  if(library MATCHES "^(/.*)\\.so[.0-9]*$")
    set(archive ${CMAKE_MATCH_1}.a)
  elseif(NOT library MATCHES "^-l(dl|m|rt|pthread|atomic)$" AND library MATCHES "^-l(.*)$")
    find_library(MOED_ARCHIVE_${CMAKE_MATCH_1} lib${CMAKE_MATCH_1}.a)
    mark_as_advanced(MOED_ARCHIVE_${CMAKE_MATCH_1})
    set(archive ${MOED_ARCHIVE_${CMAKE_MATCH_1}})
  endif()
  if(archive AND EXISTS ${archive})
    set(${result} ${archive} PARENT_SCOPE)
  endif()
endfunction()

# Redirects every library that was imported into this folder to its archive. One that has none stays shared;
# `./run portable` names it if a program uses it.
function(moed_prefer_archives)
  get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(type ${target} TYPE)
    if(type STREQUAL EXECUTABLE)
      continue()
    endif()
    get_target_property(configurations ${target} IMPORTED_CONFIGURATIONS)
    if(NOT configurations)
      set(configurations)
    endif()
    list(TRANSFORM configurations PREPEND _)
    foreach(suffix IN LISTS configurations ITEMS "")
      get_target_property(location ${target} IMPORTED_LOCATION${suffix})
      if(location)
        moed_archive_of(${location} archive)
        set_target_properties(${target} PROPERTIES IMPORTED_LOCATION${suffix} ${archive} IMPORTED_SONAME${suffix} "")
      endif()
    endforeach()
    get_target_property(libraries ${target} INTERFACE_LINK_LIBRARIES)
    if(libraries)
      set(archives)
      foreach(library IN LISTS libraries)
        moed_archive_of("${library}" archive)
        list(APPEND archives "${archive}")
      endforeach()
      set_target_properties(${target} PROPERTIES INTERFACE_LINK_LIBRARIES "${archives}")
    endif()
  endforeach()
endfunction()

moed_prefer_archives()
# libprotobuf.a holds all of libprotobuf-lite.a: two copies would be linked.
get_target_property(_moed_protobuf protobuf::libprotobuf IMPORTED_LOCATION)
set_target_properties(protobuf::libprotobuf-lite PROPERTIES IMPORTED_LOCATION ${_moed_protobuf}
                      IMPORTED_LOCATION_RELEASE ${_moed_protobuf})

add_link_options(-static-libstdc++ -static-libgcc LINKER:--gc-sections)

# The definitions of Debian's shared fmt and spdlog, so that this build and the others share their objects in ccache.
add_library(moed_spdlog STATIC ${CMAKE_CURRENT_LIST_DIR}/static/fmt.cc ${CMAKE_CURRENT_LIST_DIR}/static/spdlog.cc)
target_compile_definitions(moed_spdlog PUBLIC SPDLOG_SHARED_LIB SPDLOG_COMPILED_LIB SPDLOG_FMT_EXTERNAL FMT_SHARED)
target_link_libraries(moed_spdlog PUBLIC Threads::Threads)
set_target_properties(moed_spdlog PROPERTIES CXX_VISIBILITY_PRESET hidden)
# Machine code and PTX for several architectures shrink to a third.
if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
  add_compile_options($<$<COMPILE_LANGUAGE:CUDA>:-compress-mode=size>)
endif()

# Cross-build for a Jetson on an x86-64 machine:
#   cmake --preset jetson -DCMAKE_TOOLCHAIN_FILE=cmake/toolchains/aarch64-jetson.cmake -DJETSON_SYSROOT=/path/to/rootfs
# JETSON_SYSROOT is a copy of the device's file system (its /usr, /lib and /usr/local/cuda, made with rsync -a from the
# device), so that headers and libraries are those that it runs with. The compiler must not be newer than the device's
# libstdc++: g++-9-aarch64-linux-gnu for JetPack 5, g++-11-aarch64-linux-gnu for JetPack 6, 13 for JetPack 7.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)

set(JETSON_SYSROOT "" CACHE PATH "Copy of the device's file system")
if(NOT EXISTS "${JETSON_SYSROOT}/usr/lib/aarch64-linux-gnu")
  message(FATAL_ERROR "JETSON_SYSROOT must name a copy of the device's file system: it has no usr/lib/aarch64-linux-gnu")
endif()
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES JETSON_SYSROOT)

find_program(CMAKE_CXX_COMPILER NAMES aarch64-linux-gnu-g++ aarch64-linux-gnu-g++-13 aarch64-linux-gnu-g++-11
                                      aarch64-linux-gnu-g++-9 REQUIRED)
set(CMAKE_SYSROOT "${JETSON_SYSROOT}")
set(CMAKE_FIND_ROOT_PATH "${JETSON_SYSROOT}")
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
set(ENV{PKG_CONFIG_SYSROOT_DIR} "${JETSON_SYSROOT}")
set(ENV{PKG_CONFIG_LIBDIR} "${JETSON_SYSROOT}/usr/lib/aarch64-linux-gnu/pkgconfig:${JETSON_SYSROOT}/usr/share/pkgconfig")
# libraries that are needed by others are found where they lie on the device
set(CMAKE_EXE_LINKER_FLAGS_INIT "-Wl,-rpath-link,${JETSON_SYSROOT}/usr/lib/aarch64-linux-gnu")
set(CMAKE_SHARED_LINKER_FLAGS_INIT "${CMAKE_EXE_LINKER_FLAGS_INIT}")

# Libraries other than those of kernels/. Each missing one is reported with the Debian and Ubuntu package that holds it; all at
# once. Targets: protobuf::libprotobuf, gRPC::grpc++, ZLIB::ZLIB, nlohmann_json::nlohmann_json,
# spdlog::spdlog (the compiled library), CLI11::CLI11, espalier_sentencepiece, PkgConfig::PCRE2,
# PkgConfig::UTF8PROC; with
# ESPALIER_DEVICE_ONLY nlohmann_json::nlohmann_json and CLI11::CLI11 alone.
set(missing "")

# A header-only library, from ESPALIER_HEADERS_DIR where no package was found.
macro(espalier_header_only found target header what)
  if(NOT ${found} AND EXISTS "${ESPALIER_HEADERS_DIR}/${header}")
    add_library(${target} INTERFACE IMPORTED)
    target_include_directories(${target} SYSTEM INTERFACE "${ESPALIER_HEADERS_DIR}")
  elseif(NOT ${found})
    list(APPEND missing "${what}")
  endif()
endmacro()
find_package(nlohmann_json 3.11 CONFIG QUIET)
espalier_header_only(nlohmann_json_FOUND nlohmann_json::nlohmann_json nlohmann/json.hpp "nlohmann-json: nlohmann-json3-dev")
find_package(CLI11 CONFIG QUIET)
espalier_header_only(CLI11_FOUND CLI11::CLI11 CLI/CLI.hpp "CLI11: libcli11-dev")
if(ESPALIER_DEVICE_ONLY)
  if(missing)
    list(JOIN missing "\n  " missing)
    message(FATAL_ERROR "Libraries not found (name: Debian and Ubuntu packages):\n  ${missing}\n"
                        "-DESPALIER_HEADERS_DIR=<folder> names one with their headers.")
  endif()
  return()
endif()

# Module mode: Debian 12 has no protobuf-config.cmake.
find_package(Protobuf 3.21 MODULE QUIET)
if(NOT Protobuf_FOUND OR NOT TARGET protobuf::protoc)
  list(APPEND missing "Protobuf: libprotobuf-dev protobuf-compiler")
endif()
find_package(gRPC CONFIG QUIET)
if(NOT gRPC_FOUND)
  list(APPEND missing "gRPC: libgrpc++-dev")
elseif(NOT TARGET gRPC::grpc_cpp_plugin)
  list(APPEND missing "gRPC's protoc plugin: protobuf-compiler-grpc")
endif()
find_package(ZLIB QUIET)
if(NOT ZLIB_FOUND)
  list(APPEND missing "zlib: zlib1g-dev")
endif()
find_package(spdlog CONFIG QUIET)
if(NOT spdlog_FOUND)
  list(APPEND missing "spdlog: libspdlog-dev")
endif()
find_package(PkgConfig QUIET)
if(NOT PkgConfig_FOUND)
  list(APPEND missing "pkg-config, which finds PCRE2 and utf8proc: pkg-config")
else()
  # 10.40 is the first with \p{White_Space}.
  pkg_check_modules(PCRE2 QUIET IMPORTED_TARGET libpcre2-8>=10.40)
  if(NOT PCRE2_FOUND)
    list(APPEND missing "PCRE2 10.40 or later: libpcre2-dev")
  endif()
  # Debian's file says 2.6.0 for 2.8.0, which knows Unicode 15.
  pkg_check_modules(UTF8PROC QUIET IMPORTED_TARGET libutf8proc>=2.6)
  if(NOT UTF8PROC_FOUND)
    list(APPEND missing "utf8proc 2.8 or later: libutf8proc-dev")
  endif()
endif()

if(missing)
  list(JOIN missing "\n  " missing)
  message(FATAL_ERROR "Libraries not found (name: Debian and Ubuntu packages):\n  ${missing}\n"
                      "scripts/install_deps.sh installs them all. -DESPALIER_KERNELS_ONLY=ON builds without them.")
endif()

include(sentencepiece)

# Libraries of the server side. Each missing one is reported with the Debian and Ubuntu package that holds it; all at
# once. Targets: protobuf::libprotobuf, gRPC::grpc++, gRPC::grpc++_reflection, nlohmann_json::nlohmann_json,
# spdlog::spdlog (the compiled library), CLI11::CLI11, espalier_sentencepiece, PkgConfig::PCRE2.
set(missing "")

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
find_package(nlohmann_json 3.11 CONFIG QUIET)
if(NOT nlohmann_json_FOUND)
  list(APPEND missing "nlohmann-json: nlohmann-json3-dev")
endif()
find_package(spdlog CONFIG QUIET)
if(NOT spdlog_FOUND)
  list(APPEND missing "spdlog: libspdlog-dev")
endif()
find_package(CLI11 CONFIG QUIET)
if(NOT CLI11_FOUND)
  list(APPEND missing "CLI11: libcli11-dev")
endif()
find_package(PkgConfig QUIET)
if(NOT PkgConfig_FOUND)
  list(APPEND missing "pkg-config, which finds PCRE2: pkg-config")
else()
  # 10.40 is the first with \p{White_Space}.
  pkg_check_modules(PCRE2 QUIET IMPORTED_TARGET libpcre2-8>=10.40)
  if(NOT PCRE2_FOUND)
    list(APPEND missing "PCRE2 10.40 or later: libpcre2-dev")
  endif()
endif()

if(missing)
  list(JOIN missing "\n  " missing)
  message(FATAL_ERROR "Libraries not found (name: Debian and Ubuntu packages):\n  ${missing}\n"
                      "scripts/install_deps.sh installs them all. -DESPALIER_KERNELS_ONLY=ON builds without them.")
endif()

include(sentencepiece)

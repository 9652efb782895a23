# Target espalier_sentencepiece: SentencePiece as a static library on the system's protobuf. Debian's own library
# carries a second protobuf, which aborts a process that also holds gRPC's. Only sentencepiece_processor.h is on the
# include path; it declares an absl::string_view of its own: include it in no file that includes gRPC or abseil.
if(DEFINED ENV{ESPALIER_THIRD_PARTY_DIR})
  set(third_party_dir "$ENV{ESPALIER_THIRD_PARTY_DIR}")
else()
  set(third_party_dir "${PROJECT_SOURCE_DIR}/build/third_party")
endif()
execute_process(
  COMMAND bash "${PROJECT_SOURCE_DIR}/scripts/third_party.sh" "${third_party_dir}"
  OUTPUT_VARIABLE sentencepiece_dir OUTPUT_STRIP_TRAILING_WHITESPACE
  RESULT_VARIABLE failed)
if(failed)
  message(FATAL_ERROR "SentencePiece's source could not be fetched into ${third_party_dir} (see above). "
                      "Without a network, set ESPALIER_THIRD_PARTY_DIR to a folder that holds it.")
endif()

function(espalier_add_sentencepiece source_dir)
  set(CMAKE_POLICY_DEFAULT_CMP0077 NEW)
  set(CMAKE_WARN_DEPRECATED OFF)
  set(CMAKE_MESSAGE_LOG_LEVEL WARNING)
  set(CMAKE_SKIP_INSTALL_RULES ON)
  set(SPM_PROTOBUF_PROVIDER package CACHE INTERNAL "")
  set(SPM_ENABLE_SHARED OFF)
  set(SPM_ENABLE_TCMALLOC OFF)
  set(CMAKE_UNITY_BUILD OFF)
  string(APPEND CMAKE_CXX_FLAGS " -w")
  add_subdirectory("${source_dir}" "${PROJECT_BINARY_DIR}/third_party/sentencepiece" EXCLUDE_FROM_ALL SYSTEM)

  set(include_dir "${PROJECT_BINARY_DIR}/third_party/include")
  configure_file("${source_dir}/src/sentencepiece_processor.h" "${include_dir}/sentencepiece_processor.h" COPYONLY)
  add_library(espalier_sentencepiece INTERFACE)
  target_include_directories(espalier_sentencepiece SYSTEM INTERFACE "${include_dir}")
  # The full library holds the lite one; SentencePiece itself would link both into one process.
  set_target_properties(sentencepiece-static PROPERTIES INTERFACE_LINK_LIBRARIES protobuf::libprotobuf)
  target_link_libraries(espalier_sentencepiece INTERFACE sentencepiece-static)
endfunction()
espalier_add_sentencepiece("${sentencepiece_dir}/sentencepiece")

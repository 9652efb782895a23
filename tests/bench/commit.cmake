# Writes OUTPUT, a source file that holds the commit of SOURCE_DIR: 40 digits, with "-modified" behind them where code
# that the benchmarks run differs from it; "unknown" outside a git checkout. Untouched where nothing changed.
set(commit "")
if(GIT AND EXISTS "${SOURCE_DIR}/.git")
  execute_process(
    COMMAND "${GIT}" rev-parse HEAD
    WORKING_DIRECTORY "${SOURCE_DIR}"
    OUTPUT_VARIABLE commit
    OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  execute_process(
    COMMAND "${GIT}" --no-optional-locks status --porcelain --untracked-files=no -- kernels model engine proto server tests/bench/*.h
            tests/bench/*.cpp CMakeLists.txt scripts/cmake
    WORKING_DIRECTORY "${SOURCE_DIR}"
    OUTPUT_VARIABLE changes ERROR_QUIET)
endif()
if(commit STREQUAL "")
  set(commit "unknown")
elseif(NOT "${changes}" STREQUAL "")
  string(APPEND commit "-modified")
endif()

set(content "#include \"tests/bench/machine.h\"\n\nnamespace espalier::bench {\n\n")
string(APPEND content "const char* BuildCommit() { return \"${commit}\"; }\n\n}  // namespace espalier::bench\n")
set(before "")
if(EXISTS "${OUTPUT}")
  file(READ "${OUTPUT}" before)
endif()
if(NOT before STREQUAL content)
  file(WRITE "${OUTPUT}" "${content}")
endif()

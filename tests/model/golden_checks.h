#pragma once

#include "model/backend_runner.h"

// The model against transformers' answers, for one backend and type. Inside a test case.
namespace espalier::test {

void CheckConfigs(const RunnerOptions& options);      // random configurations
void CheckFolders(const RunnerOptions& options);      // every form of storage
void CheckTinyStories(const RunnerOptions& options);  // of the shared reference data; skipped without
void CheckDemo(const RunnerOptions& options);

}  // namespace espalier::test

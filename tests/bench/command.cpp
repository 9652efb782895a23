#include "tests/bench/command.h"

namespace espalier::bench {

void Command::AddOutputFlags() {
  CLI::Option* json = app_->add_flag("--json", json_, "One JSON object instead of a table");
  app_->add_flag("--csv", csv_, "The rows as CSV instead of a table")->excludes(json);
  app_->add_option("--json-file", json_file_, "File that gets the JSON object, whatever is printed");
}

}  // namespace espalier::bench

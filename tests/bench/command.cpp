#include "tests/bench/command.h"

namespace espalier::bench {

void Command::AddOutputFlags() {
  app_->add_flag("--json", json_, "One JSON object instead of a table");
  app_->add_option("--json-file", json_file_, "File that gets the JSON object, whatever is printed");
}

}  // namespace espalier::bench

#pragma once

namespace espalier::cli {

// What stands for a standard file that was closed when the program started.
enum class ClosedFile {
  kIgnored,  // /dev/null
  kRefused,  // /dev/null, but reading the input or writing the outputs fails
};

// Opens /dev/null for each of the descriptors 0 to 2 that is closed: the next file or socket would take its
// number, and get what is printed. A library may have taken one before main; then the program starts anew,
// with the same arguments. Call first in main.
void HoldStandardFiles(char** argv, ClosedFile closed);

}  // namespace espalier::cli

#include <algorithm>
#include <array>

#include "model/families/family.h"

namespace espalier {

namespace {

constexpr std::array kFamilies = {&kLlama, &kMistral, &kQwen2, &kQwen3, &kSmolLm3};

std::string List(const char* Family::*name) {
  std::string list;
  for (const Family* family : kFamilies) list += (list.empty() ? "" : ", ") + std::string(family->*name);
  return list;
}

template <typename Predicate>
const Family* FindFamily(Predicate is_wanted) {
  const auto found = std::find_if(kFamilies.begin(), kFamilies.end(),
                                  [&](const Family* family) { return is_wanted(*family); });
  return found == kFamilies.end() ? nullptr : *found;
}

}  // namespace

std::span<const Family* const> Families() { return kFamilies; }

const Family* FindModelType(const std::string& model_type) {
  return FindFamily([&](const Family& family) { return family.model_type == model_type; });
}

const Family* FindArchitecture(const std::string& architecture) {
  return FindFamily([&](const Family& family) {
    return family.architecture == architecture || family.base_architecture == architecture;
  });
}

std::string ModelTypes() { return List(&Family::model_type); }
std::string Architectures() { return List(&Family::architecture); }

}  // namespace espalier

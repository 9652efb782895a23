#include "model/tokenizer/json_steps.h"

#include "model/tokenizer/utf8.h"

namespace espalier {
namespace {

constexpr int kMaxDepth = 8;

Status AppendSteps(const JsonField& component, const std::string& list_name, int depth,
                   std::vector<JsonField>* steps) {
  const auto type = TypeOf(component);
  if (!type) return type.error();
  if (*type != "Sequence") {
    steps->push_back(component);
    return {};
  }
  if (depth == kMaxDepth) return NotSupported(component, "a Sequence this deep");
  const auto list = component.Get(list_name);
  if (!list) return list.error();
  const auto elements = list->Elements();
  if (!elements) return elements.error();
  for (const JsonField& element : *elements) {
    if (Status read = AppendSteps(element, list_name, depth + 1, steps); !read) return read;
  }
  return {};
}

}  // namespace

Result<std::string> TypeOf(const JsonField& component) {
  const auto type = component.Get("type");
  if (!type) return type.error();
  return type->String();
}

Error NotSupported(const JsonField& field, const std::string& what) {
  return field.Fail(what + " is not supported");
}

Result<std::vector<JsonField>> Steps(const JsonField& component, const std::string& list_name) {
  std::vector<JsonField> steps;
  if (Status read = AppendSteps(component, list_name, 0, &steps); !read) return read.error();
  return steps;
}

Result<std::string> ReadCharacter(const JsonField& step, const std::string& name) {
  const auto field = step.Get(name);
  if (!field) return field.error();
  auto text = field->String();
  if (!text) return text.error();
  if (text->empty() || ReadUtf8(*text).size_bytes != text->size())
    return field->Fail("must be one character");
  return std::move(*text);
}

}  // namespace espalier

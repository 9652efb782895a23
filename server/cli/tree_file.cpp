#include "server/cli/tree_file.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <cfloat>
#include <charconv>
#include <cmath>
#include <utility>

namespace espalier::cli {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using Json = LocatedJson::Json;

const FieldDescriptor* FindField(const Descriptor& type, const std::string& name) {
  const FieldDescriptor* field = type.FindFieldByName(name);
  for (int i = 0; field == nullptr && i < type.field_count(); ++i) {
    if (type.field(i)->json_name() == name) field = type.field(i);
  }
  return field;
}

std::string DidYouMean(const std::string& word, const std::vector<std::string>& candidates) {
  if (const auto closest = ClosestWord(word, candidates)) return "; did you mean '" + *closest + "'?";
  std::string all;
  for (const std::string& candidate : candidates) all += (all.empty() ? "" : ", ") + candidate;
  return "; there are: " + all;
}

std::string UnknownField(const Descriptor& type, const std::string& name) {
  std::vector<std::string> names;
  names.reserve(static_cast<size_t>(type.field_count()));
  for (int i = 0; i < type.field_count(); ++i) names.push_back(type.field(i)->name());
  return "no such field '" + name + "'" + DidYouMean(name, names);
}

std::string Shown(const Json& value) {
  return value.is_structured() ? std::string("an ") + value.type_name() : value.dump();
}

std::string FaultOfEnum(const EnumDescriptor& type, const Json& value) {
  std::vector<std::string> names;
  for (int i = 1; i < type.value_count(); ++i) names.push_back(type.value(i)->name());  // 0: unspecified
  if (!value.is_string()) return "must be a string" + DidYouMean("", names);
  const auto name = value.get<std::string>();
  return type.FindValueByName(name) == nullptr ? "no such value '" + name + "'" + DidYouMean(name, names)
                                               : "";
}

std::string FaultOfInteger(const Json& value, double min, double max) {
  const double number = value.is_number() ? value.get<double>() : NAN;
  if (std::floor(number) == number && number >= min && number <= max) return "";
  return "must be an integer" + std::string(min == 0 ? " and not negative" : "") + ", got " + Shown(value);
}

// Numbers beyond 2^53 may be given as strings, as protobuf writes them.
std::string FaultOfUnsigned(const Json& value) {
  if (value.is_number_unsigned()) return "";
  if (!value.is_string()) return FaultOfInteger(value, 0.0, 18446744073709549568.0);
  const auto text = value.get<std::string>();
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error == std::errc() && end == text.data() + text.size()) return "";
  return "must be an integer in [0, 2^64), got " + value.dump();
}

std::string FaultOfReal(const Json& value) {
  if (!value.is_number()) return "must be a number, got " + Shown(value);
  return std::abs(value.get<double>()) <= FLT_MAX ? "" : "is too large for a float, got " + value.dump();
}

// What is wrong with a single value that is no message, or nothing.
std::string FaultOfScalar(const FieldDescriptor& field, const Json& value) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      return value.is_string() ? "" : "must be a string, got " + Shown(value);
    case FieldDescriptor::CPPTYPE_BOOL:
      return value.is_boolean() ? "" : "must be true or false, got " + Shown(value);
    case FieldDescriptor::CPPTYPE_INT32:
      return FaultOfInteger(value, INT32_MIN, INT32_MAX);
    case FieldDescriptor::CPPTYPE_UINT64:
      return FaultOfUnsigned(value);
    case FieldDescriptor::CPPTYPE_ENUM:
      return FaultOfEnum(*field.enum_type(), value);
    default:
      return FaultOfReal(value);
  }
}

// Two members of an object that exclude each other.
std::string OnlyOne(const FieldDescriptor& field, const std::string& earlier, const std::string& key) {
  const auto* choice = field.real_containing_oneof();
  if (choice == nullptr) return "has the field " + field.name() + " twice, as " + earlier + " and as " + key;
  std::string all;
  for (int i = 0; i < choice->field_count(); ++i) {
    all += (i == 0 ? "" : i + 1 < choice->field_count() ? ", " : " or ") + choice->field(i)->name();
  }
  return "has " + earlier + " and " + key + "; only one of " + all + " can stand here";
}

// Walks a document next to the message that it stands for.
class Checker {
 public:
  Checker(const LocatedJson& json, const std::string& file) : json_(json), file_(file) {}

  void CheckMessage(const Descriptor& type, const Json& value, const std::string& path) {
    if (!value.is_object()) return Fail(json_.PlaceOf(path), path, "must be an object, got " + Shown(value));
    std::map<const void*, std::string> taken;  // by field, or by the choice that it is one of
    for (const auto& [key, member] : value.items()) {
      const std::string member_path = LocatedJson::Member(path, key);
      const FieldDescriptor* field = FindField(type, key);
      if (field == nullptr) {
        Fail(json_.KeyPlaceOf(member_path), path, UnknownField(type, key));
      } else if (!member.is_null()) {  // stands for a field that is not set
        const auto* choice = field->real_containing_oneof();
        const void* const place = choice != nullptr ? static_cast<const void*>(choice) : field;
        const auto [earlier, is_first] = taken.emplace(place, key);
        if (!is_first) {
          Fail(json_.KeyPlaceOf(member_path), path, OnlyOne(*field, earlier->second, key));
        }
        CheckField(*field, member, member_path);
      }
    }
  }

  std::vector<std::string> TakeProblems() { return std::move(problems_); }

 private:
  void Fail(TextPlace place, const std::string& path, const std::string& why) {
    problems_.push_back(TextFault{place, path.empty() ? why : path + ": " + why}.In(file_));
  }

  void CheckField(const FieldDescriptor& field, const Json& value, const std::string& path) {
    if (!field.is_repeated()) return CheckOne(field, value, path);
    if (!value.is_array()) {
      return Fail(json_.PlaceOf(path), path, "must be an array, got " + Shown(value));
    }
    for (size_t i = 0; i < value.size(); ++i) CheckOne(field, value[i], LocatedJson::Element(path, i));
  }

  void CheckOne(const FieldDescriptor& field, const Json& value, const std::string& path) {
    if (field.message_type() != nullptr) return CheckMessage(*field.message_type(), value, path);
    const std::string fault = FaultOfScalar(field, value);
    if (!fault.empty()) Fail(json_.PlaceOf(path), path, fault);
  }

  const LocatedJson& json_;
  const std::string& file_;
  std::vector<std::string> problems_;
};

// The node with the longest id that `target` begins with, before a dot.
Json* FindNode(Json& root, const std::string& target, std::vector<std::string>& ids) {
  Json* found = nullptr;
  size_t length = 0;
  if (!root.is_object() || !root.contains("nodes") || !root["nodes"].is_array()) return nullptr;
  for (Json& node : root["nodes"]) {
    if (!node.is_object() || !node.contains("id") || !node["id"].is_string()) continue;
    const auto id = node["id"].get<std::string>();
    ids.push_back(id);
    if (id.size() < length || target.rfind(id + ".", 0) != 0) continue;
    found = &node;
    length = id.size();
  }
  return found;
}

// A field that people set most often, of the kind of content that the node with this id has.
std::string ExampleField(const Json& root, const std::string& id) {
  for (const Json& node : root["nodes"]) {
    if (!node.is_object() || !node.contains("id") || node["id"] != Json(id)) continue;
    if (node.contains("generate")) return "branches";
    if (node.contains("select")) return "keep";
  }
  return "text";
}

}  // namespace

TreeFile::TreeFile(std::string name, std::string text)
    : name_(std::move(name)), json_(std::move(text)), value_(json_.value()) {}

std::string TreeFile::Set(const std::string& assignment) {
  if (!json_.faults().empty()) return "";  // Read reports it
  const size_t equals = assignment.find('=');
  if (equals == std::string::npos || equals == 0) {
    return "must be NODE.FIELD=VALUE, such as problem.text=..., got '" + assignment + "'";
  }
  const std::string target = assignment.substr(0, equals);
  const std::string text = assignment.substr(equals + 1);
  std::vector<std::string> ids;
  Json* node = FindNode(value_, target, ids);
  if (node == nullptr && std::find(ids.begin(), ids.end(), target) != ids.end()) {
    return "'" + target + "' is a node: name one of its fields too, such as " + target + "." +
           ExampleField(value_, target) + "=" + text;
  }
  if (node == nullptr) {
    return "no node '" + target.substr(0, target.find('.')) + "' in " + name_ +
           DidYouMean(target.substr(0, target.find('.')), ids);
  }
  // Fields are those of what the node holds: given, generate or select.
  const Descriptor* type = v1::TreeNode::descriptor();
  Json* holder = nullptr;
  std::string path =
      "nodes[" + std::to_string(node - value_["nodes"].get_ref<Json::array_t&>().data()) + "].";
  for (const char* kind : {"given", "generate", "select"}) {
    if (!node->contains(kind)) continue;
    if (holder != nullptr) return target + ": the node holds more than one of given, generate and select";
    holder = &(*node)[kind];
    path += kind;
    type = type->FindFieldByName(kind)->message_type();
  }
  if (holder == nullptr) return "node '" + (*node)["id"].get<std::string>() + "' holds nothing to set";
  std::string rest = target.substr((*node)["id"].get<std::string>().size() + 1);
  while (true) {
    const size_t dot = rest.find('.');
    const std::string name = rest.substr(0, dot);
    const FieldDescriptor* field = FindField(*type, name);
    if (field == nullptr) return target + ": " + UnknownField(*type, name);
    path += "." + field->name();
    if (!holder->is_object()) return target + ": what the file has there is no object";
    const bool is_leaf = dot == std::string::npos;
    if (is_leaf) {
      const bool as_text = !field->is_repeated() && (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING ||
                                                     field->cpp_type() == FieldDescriptor::CPPTYPE_ENUM);
      Json value = as_text ? Json(text) : Json::parse(text, nullptr, /*allow_exceptions=*/false);
      if (value.is_discarded()) return target + ": must be JSON, got '" + text + "'";
      if (!field->is_repeated() && field->message_type() == nullptr) {
        if (const std::string fault = FaultOfScalar(*field, value); !fault.empty())
          return target + ": " + fault;
      }
      if (const auto* choice = field->containing_oneof(); choice != nullptr) {
        for (int i = 0; i < choice->field_count(); ++i) {
          holder->erase(choice->field(i)->name());
          holder->erase(choice->field(i)->json_name());
        }
      }
      holder->erase(field->json_name());
      (*holder)[field->name()] = std::move(value);
      set_[path] = target;
      return "";
    }
    if (field->message_type() == nullptr || field->is_repeated())
      return target + ": " + name + " has no fields";
    type = field->message_type();
    holder = &(*holder)[name];
    if (holder->is_null()) *holder = Json::object();
    rest.erase(0, dot + 1);
  }
}

std::vector<std::string> TreeFile::Read(v1::GenerateRequest& request) const {
  std::vector<std::string> problems;
  for (const TextFault& fault : json_.faults()) problems.push_back(fault.In(name_));
  if (!problems.empty()) return problems;
  Checker checker(json_, name_);
  checker.CheckMessage(*v1::GenerateRequest::descriptor(), value_, "");
  problems = checker.TakeProblems();
  if (!problems.empty()) return problems;
  const auto status = google::protobuf::util::JsonStringToMessage(
      value_.dump(-1, ' ', false, Json::error_handler_t::replace), &request);
  if (!status.ok()) problems.push_back(name_ + ": not a tree request: " + std::string(status.message()));
  return problems;
}

std::string TreeFile::PlaceOf(const std::string& field) const {
  for (const auto& [path, target] : set_) {
    const bool within = field.starts_with(path) && (field.size() == path.size() ||
                                                    field[path.size()] == '.' || field[path.size()] == '[');
    if (within) return "--set " + target;
  }
  const TextPlace place = json_.PlaceOf(field);
  return name_ + ":" + std::to_string(place.line) + ":" + std::to_string(place.column);
}

}  // namespace espalier::cli

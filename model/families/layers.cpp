// What several families say of their layers in the same words.
#include <algorithm>

#include "model/families/family.h"

namespace espalier {

namespace {

constexpr int32_t kQwenWindow = 4096;    // of transformers, where sliding_window is missing
constexpr int32_t kQwenFullLayers = 28;  // the same for max_window_layers
constexpr int32_t kMaxWindow = 1 << 26;

// Whether layer_types gives layer `i` a window; the list has been found to have as many entries as layers.
bool IsSliding(const nlohmann::json& types, size_t i, JsonReader& reader) {
  const std::string type = types[i].is_string() ? types[i].get<std::string>() : "";
  if (type == "sliding_attention") return true;
  if (type != "full_attention") {
    reader.Fail("layer_types", (type.empty() ? "an entry that is no text" : Printable(type)) +
                                   " is not supported; full_attention and sliding_attention are");
  }
  return false;
}

}  // namespace

void DescribeAll(ModelConfig& config, const LayerSpec& layer) {
  std::fill(config.layers.begin(), config.layers.end(), layer);
}

int32_t WindowWidth(JsonReader& reader, int32_t missing) {
  if (reader.IsNull("sliding_window")) return 0;
  return reader.Int("sliding_window", missing, 1, kMaxWindow);
}

void DescribeWindows(JsonReader& reader, ModelConfig& config, int32_t missing_width,
                     const std::function<bool(int32_t layer)>& is_windowed) {
  const bool in_use = reader.Bool("use_sliding_window", false);
  reader.Understand("sliding_window");
  const int32_t width = in_use ? WindowWidth(reader, missing_width) : 0;
  const nlohmann::json* types = reader.Find("layer_types");
  if (types != nullptr && (!types->is_array() || types->size() != config.layers.size())) {
    reader.Fail("layer_types", "must be a list with an entry for each layer");
    return;
  }
  for (size_t i = 0; i < config.layers.size(); ++i) {
    const bool windowed =
        types != nullptr ? IsSliding(*types, i, reader) : width > 0 && is_windowed(static_cast<int32_t>(i));
    if (windowed && width == 0) {
      reader.Fail("layer_types",
                  "has sliding_attention, but use_sliding_window and sliding_window give no window");
    }
    config.layers[i].window = windowed ? width : 0;
  }
}

void DescribeUpperWindows(JsonReader& reader, ModelConfig& config) {
  reader.Understand("max_window_layers");
  DescribeWindows(reader, config, kQwenWindow, [&](int32_t layer) {
    return layer >= reader.Int("max_window_layers", kQwenFullLayers, 0, kMaxWindow);
  });
}

}  // namespace espalier

#pragma once

#include <type_traits>

#include "kernels/device/kernel_args.h"

// Kernels with a block of threads for each row.
namespace espalier::device {

template <typename T>
ESPALIER_DEVICE T* RowOf(const RowsView& view, int64_t row) {
  return static_cast<T*>(view.data) + row * view.stride;
}

template <typename Block>
ESPALIER_DEVICE void Run(Block& block, const EmbedArgs& args) {
  const int64_t row = block.index();
  const DescriptorRow& input = ArrayOf(args.descriptor, HeaderOf(args.descriptor).row)[row];
  const int32_t token = input.token_id >= 0 ? input.token_id : args.last_token[input.sequence_slot];
  const bool known = token >= 0 && token < args.vocab;
  WithOperandType(args.bf16_table, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T* from = static_cast<const T*>(args.table) + (known ? token : 0) * args.table_stride;
    float* to = RowOf<float>(args.out, row);
    block.ForThreads([&](int32_t thread) {
      if (!known && thread == 0) *args.fault = kBadToken;
      for (int32_t i = thread; i < args.out.cols; i += kThreads) to[i] = Load(from + i);
    });
  });
}

// The sum of one value of each thread, at values[0], by a tree whose shape is always the same. All kThreads
// values must be there.
template <typename Block, typename T>
ESPALIER_DEVICE void SumThreads(Block& block, T* values) {
  for (int32_t half = kThreads / 2; half > 0; half /= 2) {
    block.ForThreads([&](int32_t thread) {
      if (thread < half) values[thread] += values[thread + half];
    });
  }
}

template <typename Block>
ESPALIER_DEVICE void Run(Block& block, const RmsNormArgs& args) {
  const int64_t row = block.index();
  const float* in = RowOf<float>(args.in, row);
  float* sums = block.template Shared<float>();
  block.ForThreads([&](int32_t thread) {
    float sum = 0.0F;
    for (int32_t i = thread; i < args.in.cols; i += kThreads) sum = MulAdd(in[i], in[i], sum);
    sums[thread] = sum;
  });
  SumThreads(block, sums);
  WithOperandType(args.out.bf16, [&](auto* type) {
    auto* out = RowOf<std::remove_pointer_t<decltype(type)>>(args.out, row);
    block.ForThreads([&](int32_t thread) {
      const float scale = 1.0F / sqrtf(sums[0] / static_cast<float>(args.in.cols) + args.epsilon);
      for (int32_t i = thread; i < args.in.cols; i += kThreads)
        Store(in[i] * scale * args.weight[i], out + i);
    });
  });
}

template <typename Block>
ESPALIER_DEVICE void Run(Block& block, const AddBiasArgs& args) {
  float* out = RowOf<float>(args.out, block.index());
  block.ForThreads([&](int32_t thread) {
    for (int32_t i = thread; i < args.out.cols; i += kThreads) out[i] += args.bias[i];
  });
}

template <typename Block>
ESPALIER_DEVICE void Run(Block& block, const SwiGluArgs& args) {
  const float* gate = RowOf<float>(args.in, block.index());
  const float* up = gate + args.out.cols;
  WithOperandType(args.out.bf16, [&](auto* type) {
    auto* out = RowOf<std::remove_pointer_t<decltype(type)>>(args.out, block.index());
    block.ForThreads([&](int32_t thread) {
      for (int32_t i = thread; i < args.out.cols; i += kThreads) {
        Store(gate[i] / (1.0F + expf(-gate[i])) * up[i], out + i);
      }
    });
  });
}

template <typename Block>
ESPALIER_DEVICE void Run(Block& block, const GatherArgs& args) {
  const int64_t row = block.index();
  const int32_t source = ArrayOf(args.descriptor, HeaderOf(args.descriptor).logit_row)[row];
  WithOperandType(args.out.bf16, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T* from = RowOf<T>(args.in, source);
    T* to = RowOf<T>(args.out, row);
    block.ForThreads([&](int32_t thread) {
      for (int32_t i = thread; i < args.out.cols; i += kThreads) to[i] = from[i];
    });
  });
}

// 1 / sqrt(mean of squares + epsilon) of each head of a row: of head h at scales[h * NormParts()].
template <typename Block>
ESPALIER_DEVICE void ScaleHeads(Block& block, const RotaryArgs& args, const float* heads, float* scales) {
  const int32_t count = args.TurnedHeads();
  const int32_t parts = args.NormParts();
  block.ForThreads([&](int32_t thread) {
    for (int32_t i = thread; i < count * parts; i += kThreads) {
      const float* head = heads + int64_t{i / parts} * args.head_dim;
      float sum = 0.0F;
      for (int32_t d = i % parts; d < args.head_dim; d += parts) {
        sum = MulAdd(head[d], head[d], sum);
      }
      scales[i] = sum;
    }
  });
  block.ForThreads([&](int32_t thread) {
    for (int32_t h = thread; h < count; h += kThreads) {
      float* sums = scales + h * parts;
      float sum = sums[0];
      for (int32_t i = 1; i < parts; ++i) sum += sums[i];
      sums[0] = 1.0F / sqrtf(sum / static_cast<float>(args.head_dim) + args.epsilon);
    }
  });
}

// Normalises queries and keys, turns their pairs (i, i + head_dim / 2), in place, and stores K and V. A
// thread owns a pair.
template <typename Block>
ESPALIER_DEVICE void Run(Block& block, const RotaryArgs& args) {
  const int64_t row = block.index();
  const DescriptorRow& input = ArrayOf(args.descriptor, HeaderOf(args.descriptor).row)[row];
  const KvLayout layout = args.layout;
  const int32_t half = args.head_dim / 2;
  float* heads = RowOf<float>(args.qkv, row);
  const float* values = heads + int64_t{args.TurnedHeads()} * args.head_dim;
  float* scales = block.template Shared<float>();
  if (args.HasNorms()) ScaleHeads(block, args, heads, scales);
  // A pair of head `head` becomes what attention takes.
  const auto prepare = [&](int32_t head, int32_t i, float* x, float* y) {
    const float* norm = head < args.query_heads ? args.query_norm : args.key_norm;
    if (norm != nullptr) {
      const float scale = scales[head * args.NormParts()];
      *x = *x * scale * norm[i];
      *y = *y * scale * norm[i + half];
    }
    if (args.angles == nullptr) return;
    const float* cosine = args.angles + int64_t{input.position} * 2 * half;
    const float* sine = cosine + half;
    const float turned_x = *x * cosine[i] - *y * sine[i];
    const float turned_y = *y * cosine[i] + *x * sine[i];
    *x = turned_x;
    *y = turned_y;
  };
  WithOperandType(args.bf16_kv, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const auto block_of = [&](int32_t kv_head) {
      return static_cast<T*>(args.kv) +
             layout.BlockAt(int64_t{args.layer} * layout.kv_heads + kv_head, input.kv_block);
    };
    block.ForThreads([&](int32_t thread) {
      const int32_t pairs = args.TurnedHeads() * half;
      for (int32_t pair = thread; pair < pairs; pair += kThreads) {
        const int32_t head = pair / half;
        const int32_t i = pair % half;
        float* at = heads + int64_t{head} * args.head_dim + i;
        float x = at[0];
        float y = at[half];
        prepare(head, i, &x, &y);
        at[0] = x;
        at[half] = y;
        if (head < args.query_heads) continue;
        T* keys = block_of(head - args.query_heads);
        Store(x, keys + layout.KeyAt(input.kv_slot, i));
        Store(y, keys + layout.KeyAt(input.kv_slot, i + half));
      }
      for (int32_t i = thread; i < layout.kv_heads * args.head_dim; i += kThreads) {
        Store(values[i], block_of(i / args.head_dim) + layout.ValueAt(input.kv_slot, i % args.head_dim));
      }
    });
  });
}

// KV block `list index` of a layer's head, for launches with a block of threads for each of them.
template <typename T>
ESPALIER_DEVICE T* ListedBlock(void* kv, const KvLayout& layout, int64_t index, int32_t count,
                               int32_t block) {
  return static_cast<T*>(kv) + layout.BlockAt(index / count, block);
}

template <typename Block>
ESPALIER_DEVICE void Run(Block& block, const ZeroBlocksArgs& args) {
  const int32_t* list = ArrayOf(args.descriptor, HeaderOf(args.descriptor).zero_block);
  const int32_t target = list[block.index() % args.count];
  WithOperandType(args.bf16_kv, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    T* to = ListedBlock<T>(args.kv, args.layout, block.index(), args.count, target);
    block.ForThreads([&](int32_t thread) {
      for (int64_t i = thread; i < args.layout.BlockElements(); i += kThreads) to[i] = T{0};
    });
  });
}

template <typename Block>
ESPALIER_DEVICE void Run(Block& block, const CopyBlocksArgs& args) {
  const DescriptorCopy copy =
      ArrayOf(args.descriptor, HeaderOf(args.descriptor).copy)[block.index() % args.count];
  const KvLayout layout = args.layout;
  WithOperandType(args.bf16_kv, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T* from = ListedBlock<T>(args.kv, layout, block.index(), args.count, copy.source);
    T* to = ListedBlock<T>(args.kv, layout, block.index(), args.count, copy.destination);
    block.ForThreads([&](int32_t thread) {
      for (int32_t i = thread; i < copy.tokens * layout.stored_dim; i += kThreads) {
        const int32_t slot = i / layout.stored_dim;
        const int32_t dim = i % layout.stored_dim;
        to[layout.KeyAt(slot, dim)] = from[layout.KeyAt(slot, dim)];
        to[layout.ValueAt(slot, dim)] = from[layout.ValueAt(slot, dim)];
      }
    });
  });
}

}  // namespace espalier::device

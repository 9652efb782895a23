#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <random>
#include <vector>

#include "kernels/backend.h"
#include "kernels/base/convert.h"
#include "kernels/base/dtype.h"
#include "kernels/base/fast_exp.h"
#include "kernels/base/philox.h"
#include "kernels/base/unfit.h"
#include "tests/support/catch.h"

namespace espalier::test {

TEST_CASE("Every half survives the way to fp32 and back") {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = HalfToFloat(half);
    if ((bits & 0x7fffU) > 0x7c00U) {
      REQUIRE(std::isnan(value));
      REQUIRE(std::isnan(HalfToFloat(ToHalf(value))));
    } else if (ToHalf(value) != half) {
      FAIL("bits " << bits);
    }
  }
  REQUIRE(HalfToFloat(0x3c00) == 1.0F);
  REQUIRE(HalfToFloat(0xc000) == -2.0F);
  REQUIRE(HalfToFloat(0x7bff) == 65504.0F);
  REQUIRE(HalfToFloat(0x0001) == 0x1p-24F);
}

TEST_CASE("fp32 is rounded to the nearest half, ties to even") {
  for (uint32_t bits = 0; bits < 0x7bff; ++bits) {
    const float low = HalfToFloat(static_cast<uint16_t>(bits));
    const float high = HalfToFloat(static_cast<uint16_t>(bits + 1));
    const float middle = (low + high) / 2;
    const uint32_t even = bits % 2 == 0 ? bits : bits + 1;
    const bool right = ToHalf(middle) == even && ToHalf(std::nextafter(middle, 0.0F)) == bits &&
                       ToHalf(std::nextafter(middle, 1e9F)) == bits + 1 &&
                       ToHalf(-middle) == (even | 0x8000U);
    if (!right) FAIL("bits " << bits);
  }
  REQUIRE(ToHalf(65520.0F) == 0x7c00);
  REQUIRE(ToHalf(65519.0F) == 0x7bff);
  REQUIRE(ToHalf(-std::numeric_limits<float>::infinity()) == 0xfc00);
}

TEST_CASE("fp32 is rounded to the nearest bfloat16, ties to even") {
  REQUIRE(ToFloat(ToBFloat16(1.0F)) == 1.0F);
  REQUIRE(ToBFloat16(1.0F + 0x1p-8F) == ToBFloat16(1.0F));
  REQUIRE(ToFloat(ToBFloat16(1.0F + 0x3p-8F)) == 1.0F + 0x1p-6F);
  REQUIRE(std::isnan(ToFloat(ToBFloat16(std::numeric_limits<float>::quiet_NaN()))));
  REQUIRE(std::isinf(ToFloat(ToBFloat16(std::numeric_limits<float>::max()))));
}

TEST_CASE("Conversion reads unaligned elements of every type") {
  const std::vector<float> expected = {0.5F, -3.0F, 100.0F};
  std::vector<unsigned char> bytes(1 + expected.size() * 4);
  for (const DType type : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    for (size_t i = 0; i < expected.size(); ++i) {
      uint32_t bits = std::bit_cast<uint32_t>(expected[i]);
      if (type == DType::kBFloat16) bits = ToBFloat16(expected[i]);
      if (type == DType::kFloat16) bits = ToHalf(expected[i]);
      for (size_t byte = 0; byte < SizeOf(type); ++byte) {
        bytes[1 + i * SizeOf(type) + byte] = static_cast<unsigned char>(bits >> (8 * byte));
      }
    }
    std::vector<float> values(expected.size());
    ConvertToFloat(bytes.data() + 1, type, static_cast<int64_t>(values.size()), values.data());
    REQUIRE(values == expected);
  }
}

TEST_CASE("The fast exponential is within 3e-7 of the exact one") {
  double worst = 0.0;
  for (float x = -86.99F; x <= 0.0F; x += 0.0007F) {
    const double exact = std::exp(static_cast<double>(x));
    worst = std::max(worst, std::abs(static_cast<double>(ExpNonPositive(x)) - exact) / exact);
  }
  REQUIRE(worst < 3e-7);
  REQUIRE(ExpNonPositive(0.0F) == 1.0F);
  REQUIRE(ExpNonPositive(-88.0F) == 0.0F);
  REQUIRE(ExpNonPositive(-std::numeric_limits<float>::infinity()) == 0.0F);
  REQUIRE(ExpNonPositive(std::numeric_limits<float>::quiet_NaN()) == 0.0F);
}

TEST_CASE("Philox4x32-10 gives the published answers") {
  // Known-answer vectors of the Random123 library.
  using Words = std::array<uint32_t, 4>;
  REQUIRE(Philox4x32({0, 0, 0, 0}, {0, 0}) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  constexpr uint32_t kOnes = 0xffffffff;
  REQUIRE(Philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}) ==
          Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  REQUIRE(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
          Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("Unknown and missing backends are refused by the name of the flag") {
  BackendOptions options;
  options.name = "tpu";
  Result<std::unique_ptr<Backend>> backend = CreateBackend(options);
  REQUIRE(!backend.ok());
  REQUIRE(backend.error().field == "backend");
  options.name = "ref";
  options.max_rows = 0;
  backend = CreateBackend(options);
  REQUIRE(!backend.ok());
  REQUIRE(backend.error().field == "max_rows");
}

namespace {

// One element at a time, by converting it.
UnfitValues FindUnfitSlowly(const std::vector<unsigned char>& bytes, size_t begin, DType type, int64_t count,
                            DType kept) {
  UnfitValues found;
  for (int64_t i = 0; i < count; ++i) {
    float value = 0.0F;
    ConvertToFloat(bytes.data() + begin + static_cast<size_t>(i) * SizeOf(type), type, 1, &value);
    float held = value;
    if (kept == DType::kBFloat16) held = ToFloat(ToBFloat16(value));
    if (kept == DType::kFloat16) held = HalfToFloat(ToHalf(value));
    if (std::isfinite(held)) continue;
    ++(std::isfinite(value) ? found.too_large : found.not_finite);
    if (found.first < 0) found.first = i;
  }
  return found;
}

void CheckUnfit(const std::vector<unsigned char>& bytes, size_t begin, DType type, int64_t count) {
  for (const DType kept : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    INFO(Name(type) << " kept as " << Name(kept) << ", " << count << " from byte " << begin);
    const UnfitValues expected = FindUnfitSlowly(bytes, begin, type, count, kept);
    const UnfitValues found = FindUnfit(bytes.data() + begin, type, count, kept);
    REQUIRE(found.not_finite == expected.not_finite);
    REQUIRE(found.too_large == expected.too_large);
    REQUIRE(found.first == expected.first);
  }
}

}  // namespace

TEST_CASE("Values that no weight may have are found, wherever they lie and whatever the bytes' alignment") {
  // Every half and every bfloat16.
  std::vector<unsigned char> halves;
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    halves.push_back(static_cast<unsigned char>(bits & 0xff));
    halves.push_back(static_cast<unsigned char>(bits >> 8));
  }
  for (const DType type : {DType::kBFloat16, DType::kFloat16}) CheckUnfit(halves, 0, type, 65536);

  // Sound numbers with an edge of the range among them here and there.
  constexpr uint32_t kEdges[] = {0x7f800000, 0x7f7fffff, 0x7f7f8000, 0x7f7f7fff, 0x477ff000, 0x477fefff,
                                 0x7fc00000, 0xff800000, 0xffffffff, 0xff7f8000, 0x00000001, 0x80000000};
  std::mt19937 random(5);
  for (int round = 0; round < 200; ++round) {
    const size_t begin = random() % 5;
    const auto count = static_cast<int64_t>(random() % 1200);
    std::vector<unsigned char> bytes(begin + static_cast<size_t>(count) * 4);
    for (int64_t i = 0; i < count; ++i) {
      const bool edge = random() % 200 == 0;
      const uint32_t bits =
          edge ? kEdges[random() % std::size(kEdges)] : static_cast<uint32_t>(random() % 0x45000000);
      std::memcpy(bytes.data() + begin + static_cast<size_t>(i) * 4, &bits, 4);
    }
    CheckUnfit(bytes, begin, DType::kFloat32, count);
    CheckUnfit(bytes, begin, DType::kBFloat16, 2 * count);
  }
}

}  // namespace espalier::test

#include "server/message_stream.h"

#include <grpc/byte_buffer.h>
#include <grpcpp/support/proto_buffer_reader.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <new>

namespace espalier {
namespace {

using google::protobuf::io::ZeroCopyInputStream;

// The bytes as they came. gRPC's C++ interface does not say how they are compressed; its C interface does.
class WireReader final : public grpc::ProtoBufferReader {
 public:
  explicit WireReader(grpc::ByteBuffer& bytes) : ProtoBufferReader(&bytes) {}

  grpc_compression_algorithm compression() {
    return status().ok() ? reader()->buffer_in->data.raw.compression : GRPC_COMPRESS_NONE;
  }
};

// gRPC has compared the length already.
class PlainStream final : public MessageStream {
 public:
  explicit PlainStream(grpc::ByteBuffer& bytes) : reader_(bytes) {}

  State state() const override { return State::kSound; }
  bool Next(const void** data, int* size) override { return reader_.Next(data, size); }
  void BackUp(int count) override { reader_.BackUp(count); }
  bool Skip(int count) override { return reader_.Skip(count); }
  int64_t ByteCount() const override { return reader_.ByteCount(); }

 private:
  WireReader reader_;
};

class UnsupportedStream final : public MessageStream {
 public:
  State state() const override { return State::kUnsupported; }
  bool Next(const void** /*data*/, int* /*size*/) override { return false; }
  void BackUp(int /*count*/) override {}
  bool Skip(int /*count*/) override { return false; }
  int64_t ByteCount() const override { return 0; }
};

class InflatingStream final : public MessageStream {
 public:
  explicit InflatingStream(grpc::ByteBuffer& bytes) : reader_(bytes) {
    constexpr int kLargestWindowOfGzipOrZlib = 15 + 32;
    if (inflateInit2(&inflater_, kLargestWindowOfGzipOrZlib) != Z_OK) throw std::bad_alloc();
  }
  ~InflatingStream() override { inflateEnd(&inflater_); }
  InflatingStream(const InflatingStream&) = delete;
  InflatingStream& operator=(const InflatingStream&) = delete;

  State state() const override { return state_; }

  bool Next(const void** data, int* size) override {
    if (backed_up_ == 0) {
      filled_ = Fill();
      inflated_ += filled_;
      backed_up_ = filled_;
      if (inflated_ > kMaxMessageBytes) state_ = State::kTooLarge;
      if (filled_ == 0 || state_ != State::kSound) return false;
    }
    *data = buffer_.data() + (filled_ - backed_up_);
    *size = backed_up_;
    backed_up_ = 0;
    return true;
  }
  void BackUp(int count) override { backed_up_ = count; }
  bool Skip(int count) override {
    const void* data = nullptr;
    int size = 0;
    while (count > 0) {
      if (!Next(&data, &size)) return false;
      if (size > count) BackUp(size - count);
      count -= std::min(size, count);
    }
    return true;
  }
  int64_t ByteCount() const override { return inflated_ - backed_up_; }

 private:
  // The next bytes of the content; 0: there are none, or the state says what is wrong.
  int Fill() {
    inflater_.next_out = buffer_.data();
    inflater_.avail_out = static_cast<uInt>(buffer_.size());
    while (!ended_ && inflater_.avail_out == buffer_.size()) {
      if (inflater_.avail_in == 0 && !TakeInput()) return Damaged();
      const int result = inflate(&inflater_, Z_NO_FLUSH);
      if (result == Z_MEM_ERROR) throw std::bad_alloc();
      ended_ = result == Z_STREAM_END;
      if (!ended_ && result != Z_OK) return Damaged();
      if (ended_ && (inflater_.avail_in > 0 || TakeInput())) return Damaged();
    }
    return static_cast<int>(buffer_.size() - inflater_.avail_out);
  }
  bool TakeInput() {
    const void* data = nullptr;
    int size = 0;
    while (size == 0) {
      if (!reader_.Next(&data, &size)) return false;
    }
    inflater_.next_in = static_cast<Bytef*>(const_cast<void*>(data));
    inflater_.avail_in = static_cast<uInt>(size);
    return true;
  }
  int Damaged() {
    state_ = State::kDamaged;
    ended_ = true;
    return 0;
  }

  WireReader reader_;
  z_stream inflater_{};
  State state_ = State::kSound;
  bool ended_ = false;
  int filled_ = 0;     // bytes in the buffer
  int backed_up_ = 0;  // of them, those at the end that are to be given out again
  int64_t inflated_ = 0;
  std::array<Bytef, 64 << 10> buffer_;
};

}  // namespace

std::unique_ptr<MessageStream> MessageStream::Open(grpc::ByteBuffer& bytes) {
  switch (WireReader(bytes).compression()) {
    case GRPC_COMPRESS_NONE:
      return std::make_unique<PlainStream>(bytes);
    case GRPC_COMPRESS_GZIP:
    case GRPC_COMPRESS_DEFLATE:
      return std::make_unique<InflatingStream>(bytes);
    default:
      return std::make_unique<UnsupportedStream>();
  }
}

bool IsCompressed(grpc::ByteBuffer& bytes) { return WireReader(bytes).compression() != GRPC_COMPRESS_NONE; }

}  // namespace espalier

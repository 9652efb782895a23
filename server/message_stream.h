#pragma once

#include <google/protobuf/io/zero_copy_stream.h>
#include <grpcpp/support/byte_buffer.h>

#include <cstdint>
#include <memory>

namespace espalier {

// The largest message that is taken, after inflation. gRPC 1.51 itself compares only the bytes before it.
inline constexpr int kMaxMessageBytes = 64 << 20;

// The content of a received message, from its beginning, in pieces: nothing is copied, and of a compressed
// message (gzip or deflate; gRPC is set to leave them as they are) only 64 KiB exist at one time.
class MessageStream : public google::protobuf::io::ZeroCopyInputStream {
 public:
  enum class State : uint8_t {
    kSound,
    kTooLarge,     // holds more than kMaxMessageBytes: ends there
    kDamaged,      // the compressed bytes are not one whole gzip or deflate stream: ends at the fault
    kUnsupported,  // compressed in another way: empty
  };

  // `bytes` outlives the stream and may have several. Throws std::bad_alloc.
  static std::unique_ptr<MessageStream> Open(grpc::ByteBuffer& bytes);

  virtual State state() const = 0;
};

// Whether its sender compressed it.
bool IsCompressed(grpc::ByteBuffer& bytes);

}  // namespace espalier

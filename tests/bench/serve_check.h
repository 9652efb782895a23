#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "espalier/v1/tree.pb.h"

namespace espalier::bench {

// What came back for one request, as counted.
struct Answer {
  v1::Usage usage;
  int64_t output_tokens = 0;        // generated tokens that were delivered
  int64_t longest_path_tokens = 0;  // generated tokens of the longest path
};

// Follows the events of one Generate call and finds what is missing or contradicts itself.
class StreamCheck {
 public:
  // `request` outlives this.
  explicit StreamCheck(const v1::GenerateRequest* request);

  // Whether the event brings generated tokens.
  bool Take(v1::GenerateResponse event);

  // The stream has ended with status OK: what is wrong with it, or empty.
  std::string Fault();
  const Answer& answer() const { return answer_; }

 private:
  struct Delivered {
    int32_t node = -1;
    std::vector<int32_t> token_ids;
    std::string text;
    v1::FinishReason reason = v1::FINISH_REASON_UNSPECIFIED;
  };

  int32_t NodeOf(const std::string& id) const;  // -1: none
  void TakeDelta(const v1::TreeDelta& delta, bool* generated);
  std::string FinalFault() const;
  std::string CountFault() const;
  std::string BranchFault(const v1::Branch& branch) const;
  std::string UsageFault() const;
  void CountLongestPath();

  const v1::GenerateRequest* request_;
  v1::Started started_;
  v1::Finished finished_;
  std::vector<Delivered> delivered_;  // by branch
  int32_t selections_ = 0;
  int32_t events_ = 0;
  std::string fault_;  // the first one
  bool ended_ = false;
  Answer answer_;
};

// What is wrong with the answer to a Score call, or empty.
std::string ScoreFault(const v1::ScoreRequest& request, const v1::ScoreResponse& response);

}  // namespace espalier::bench

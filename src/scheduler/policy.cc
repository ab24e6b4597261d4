#include "scheduler/policy.h"

#include <set>

namespace moed {
namespace {

class FcfsPolicy : public Policy {
 public:
  void Push(const SequenceInfo* sequence) override { queue_.insert(sequence); }
  void Remove(const SequenceInfo* sequence) override { queue_.erase(sequence); }
  const SequenceInfo* Front() const override { return queue_.empty() ? nullptr : *queue_.begin(); }
  bool Precedes(const SequenceInfo& a, const SequenceInfo& b) const override { return a.order < b.order; }

 private:
  struct EarlierAdded {
    bool operator()(const SequenceInfo* a, const SequenceInfo* b) const { return a->order < b->order; }
  };
  // Ordered rather than a deque: a preempted sequence goes back to its old place, and a cancelled one leaves from
  // anywhere.
  std::set<const SequenceInfo*, EarlierAdded> queue_;
};

// Every policy that options can name.
struct NamedPolicy {
  std::string_view name;
  std::unique_ptr<Policy> (*make)();
};
constexpr NamedPolicy kPolicies[] = {
    {"fcfs", &MakeFcfsPolicy},
};

}  // namespace

std::unique_ptr<Policy> MakeFcfsPolicy() { return std::make_unique<FcfsPolicy>(); }

absl::StatusOr<std::unique_ptr<Policy>> MakePolicy(std::string_view name) {
  std::string known;
  for (const NamedPolicy& policy : kPolicies) {
    if (policy.name == name) return policy.make();
    if (!known.empty()) known += ", ";
    known += policy.name;
  }
  return InvalidArgument("scheduling_policy is \"{}\"; known policies: {}", name, known);
}

}  // namespace moed

#include "engine/step_plan.h"

#include <gtest/gtest.h>

#include <random>

namespace moed {
namespace {

class PlanMaker {
 public:
  explicit PlanMaker(uint64_t seed) : random_(seed) {}

  StepPlan Make() {
    StepPlan plan;
    plan.step = random_();
    plan.token_ids = Ints();
    plan.positions = Ints();
    plan.query_starts = Ints();
    plan.slots = Ints();
    plan.block_tables.resize(Draw(0, 3));
    for (BlockTables& tables : plan.block_tables) tables = {.starts = Ints(), .ids = Ints()};
    plan.logits_rows.resize(Draw(0, 5));
    for (LogitsRow& row : plan.logits_rows) row = {Int(), Int(), Flip(), Flip()};
    plan.slot_inits.resize(Draw(0, 3));
    for (SlotInit& init : plan.slot_inits) init = {Int(), Params(), random_(), Ints(), Ints()};
    plan.block_copies.resize(Draw(0, 3));
    for (BlockCopy& copy : plan.block_copies) copy = {Int(), Int(), Int()};
    plan.transfers.resize(Draw(0, 3));
    for (BlockTransfer& transfer : plan.transfers) transfer = {Int(), Int(), Int(), Draw(0, 1) == 1};
    return plan;
  }

  int Draw(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }

 private:
  bool Flip() { return Draw(0, 1) == 1; }
  // Numbers of every length, the ends of the range among them.
  int32_t Int() { return static_cast<int32_t>(static_cast<uint32_t>(random_()) >> Draw(0, 31)) * (Flip() ? 1 : -1); }
  float Float() { return static_cast<float>(Int()) * 0.37f; }
  std::vector<int32_t> Ints() {
    std::vector<int32_t> ints(Draw(0, 6));
    for (int32_t& value : ints) value = Int();
    return ints;
  }
  std::string String() {
    std::string bytes(Draw(0, 200), 0);
    for (char& byte : bytes) byte = static_cast<char>(Draw(0, 255));
    return bytes;
  }
  SamplingParams Params() {
    SamplingParams params;
    params.temperature = Float();
    params.top_k = Int();
    params.top_p = Float();
    params.min_p = Float();
    params.repetition_penalty = Float();
    params.presence_penalty = Float();
    params.frequency_penalty = Float();
    for (int n = Draw(0, 3); n > 0; --n) params.logit_bias.emplace_back(Int(), Float());
    if (Flip()) params.seed = random_();
    params.max_tokens = Int();
    params.min_tokens = Int();
    for (int n = Draw(0, 3); n > 0; --n) params.stop.push_back(String());
    params.stop_token_ids = Ints();
    params.include_stop_in_output = Flip();
    params.ignore_eos = Flip();
    params.skip_special_tokens = Flip();
    params.logprobs = Int();
    return params;
  }

  std::mt19937_64 random_;
};

TEST(StepPlanTest, ComesBackAsItWas) {
  PlanMaker maker(std::random_device{}());
  for (int i = 0; i < 1000; ++i) {
    const StepPlan plan = maker.Make();
    const std::string bytes = SerializePlan(plan);
    const absl::StatusOr<StepPlan> parsed = ParsePlan(bytes);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    ASSERT_TRUE(*parsed == plan);
    ASSERT_EQ(SerializePlan(*parsed), bytes);
  }
}

// Were a field left out, two plans that differ in nothing else would have the same bytes.
TEST(StepPlanTest, EveryFieldCounts) {
  const std::string none = SerializePlan(StepPlan{});
  const auto differs = [&](auto change) {
    StepPlan plan;
    change(plan);
    return SerializePlan(plan) != none && *ParsePlan(SerializePlan(plan)) == plan;
  };
  EXPECT_TRUE(differs([](StepPlan& plan) { plan.step = 1; }));
  EXPECT_TRUE(differs([](StepPlan& plan) { plan.token_ids = {kPendingToken}; }));
  EXPECT_TRUE(differs([](StepPlan& plan) { plan.positions = {1}; }));
  EXPECT_TRUE(differs([](StepPlan& plan) { plan.query_starts = {1}; }));
  EXPECT_TRUE(differs([](StepPlan& plan) { plan.slots = {1}; }));
  EXPECT_TRUE(differs([](StepPlan& plan) { plan.block_tables = {{.starts = {0, 1}, .ids = {5}}}; }));
  EXPECT_TRUE(differs([](StepPlan& plan) { plan.logits_rows.resize(1); }));
  EXPECT_TRUE(differs([](StepPlan& plan) { plan.slot_inits.resize(1); }));
  EXPECT_TRUE(differs([](StepPlan& plan) { plan.block_copies.resize(1); }));
  EXPECT_TRUE(differs([](StepPlan& plan) { plan.transfers.resize(1); }));
}

TEST(StepPlanTest, ADecodeStepIsSmall) {
  StepPlan plan;
  plan.query_starts.push_back(0);
  plan.block_tables.resize(1);
  plan.block_tables[0].starts.push_back(0);
  for (int32_t s = 0; s < 64; ++s) {
    plan.token_ids.push_back(30'000 + s);
    plan.positions.push_back(1000);
    plan.query_starts.push_back(s + 1);
    plan.slots.push_back(s);
    for (int32_t i = 0; i < 63; ++i) plan.block_tables[0].ids.push_back(s * 63 + i);
    plan.block_tables[0].starts.push_back((s + 1) * 63);
    plan.logits_rows.push_back({.token = s, .sequence = s});
  }
  EXPECT_LT(SerializePlan(plan).size(), 64 * (63 * 2 + 16));
}

TEST(StepPlanTest, EveryPrefixIsDataLoss) {
  PlanMaker maker(7);
  for (int i = 0; i < 20; ++i) {
    const std::string bytes = SerializePlan(maker.Make());
    for (size_t size = 0; size < bytes.size(); ++size) {
      ASSERT_EQ(ParsePlan(std::string_view(bytes).substr(0, size)).status().code(), absl::StatusCode::kDataLoss);
    }
    EXPECT_EQ(ParsePlan(bytes + '\0').status().code(), absl::StatusCode::kDataLoss);
  }
}

TEST(StepPlanTest, DamagedBytesAreDataLossOrAnotherPlan) {
  PlanMaker maker(std::random_device{}());
  int refused = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string bytes = SerializePlan(maker.Make());
    for (int n = maker.Draw(1, 3); n > 0; --n) {
      const size_t at = maker.Draw(0, static_cast<int>(bytes.size()) - 1);
      switch (maker.Draw(0, 2)) {
        case 0:
          bytes[at] = static_cast<char>(maker.Draw(0, 255));
          break;
        case 1:
          bytes.erase(at, maker.Draw(1, 4));
          break;
        default:
          bytes.insert(at, maker.Draw(1, 4), static_cast<char>(maker.Draw(0, 255)));
      }
      if (bytes.empty()) break;
    }
    const absl::StatusOr<StepPlan> parsed = ParsePlan(bytes);
    if (!parsed.ok()) {
      ASSERT_EQ(parsed.status().code(), absl::StatusCode::kDataLoss);
      ++refused;
    } else {
      ASSERT_EQ(SerializePlan(*parsed), bytes) << "a plan has one encoding";
    }
  }
  EXPECT_GT(refused, 1000);
}

TEST(StepPlanTest, ALengthIsNotBelievedBeforeTheBytesAreThere) {
  std::string bytes = SerializePlan(StepPlan{});
  // The last field, transfers, now claims 2^63 elements.
  bytes.pop_back();
  bytes += "\xff\xff\xff\xff\xff\xff\xff\xff\x7f";
  EXPECT_EQ(ParsePlan(bytes).status().code(), absl::StatusCode::kDataLoss);
}

TEST(StepPlanTest, NamesAnotherVersion) {
  std::string bytes = SerializePlan(StepPlan{});
  ++bytes[1 + std::string_view("moedplan").size()];
  const absl::Status status = ParsePlan(bytes).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(Message(status).find("version 3"), std::string_view::npos) << status;
  EXPECT_EQ(ParsePlan("").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ParsePlan("GET / HTTP/1.1\r\n").status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace moed

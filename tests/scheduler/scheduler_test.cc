#include "scheduler/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <numeric>

#include "tests/scheduler/strict_engine.h"

namespace moed {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::vector<int32_t> Count(int32_t count, int32_t from = 0) {
  std::vector<int32_t> tokens(count);
  std::iota(tokens.begin(), tokens.end(), from);
  return tokens;
}

class SchedulerTest : public testing::Test {
 protected:
  SchedulerTest() {
    info_.vocab_size = 1000;
    info_.max_context = 200;
    info_.max_slots = 4;
    info_.max_tokens_per_step = 64;
    info_.cache_groups = {{.block_size = 4, .num_blocks = 100}};
    options_.max_num_seqs = 4;
    options_.max_num_batched_tokens = 32;
    options_.max_queue = 10;
  }

  void Start() {
    auto scheduler = Scheduler::Create(options_, info_, MakeFcfsPolicy());
    ASSERT_TRUE(scheduler.ok()) << scheduler.status();
    scheduler_ = std::move(*scheduler);
    engine_ = std::make_unique<StrictEngine>(info_);
  }

  static Request MakeRequest(SequenceId id, std::vector<int32_t> prompt, int32_t max_tokens) {
    Request request;
    request.id = id;
    request.prompt_ids = std::move(prompt);
    request.params.max_tokens = max_tokens;
    request.params.seed = 5;
    request.arrival = absl::UnixEpoch();
    return request;
  }
  void Add(SequenceId id, std::vector<int32_t> prompt, int32_t max_tokens) {
    const absl::Status status = scheduler_->Add(MakeRequest(id, std::move(prompt), max_tokens));
    ASSERT_TRUE(status.ok()) << status;
  }

  // Plans a step and hands it to the engine; the step's lengths, sequence by sequence.
  std::vector<int32_t> Submit() {
    StepPlan plan = scheduler_->Schedule(now_);
    std::vector<int32_t> lengths(plan.num_sequences());
    for (int32_t s = 0; s < plan.num_sequences(); ++s) {
      lengths[s] = plan.query_starts[s + 1] - plan.query_starts[s];
    }
    last_plan_ = plan;
    if (!plan.empty()) engine_->Submit(std::move(plan));
    return lengths;
  }
  void Apply() {
    scheduler_->Apply(engine_->Collect(), now_);
    TakeUpdates();
  }
  std::vector<int32_t> Step() {
    std::vector<int32_t> lengths = Submit();
    if (engine_->num_outstanding() > 0) Apply();
    return lengths;
  }
  void RunToEnd() {
    do {
      Step();
    } while (!last_plan_.empty());
  }
  void TakeUpdates() {
    for (SequenceUpdate& update : scheduler_->TakeUpdates()) {
      SequenceUpdate& seen = seen_[update.id];
      EXPECT_EQ(seen.finish, FinishReason::kNone) << "news after the end";
      update.tokens.insert(update.tokens.begin(), seen.tokens.begin(), seen.tokens.end());
      seen = std::move(update);
    }
  }
  std::vector<int32_t> Alone(const std::vector<int32_t>& prompt, int32_t max_tokens) {
    return OutputAlone(prompt, MakeRequest(0, prompt, max_tokens).params, info_.max_context, info_.vocab_size);
  }
  void ExpectNothingHeld() {
    const SchedulerStats stats = scheduler_->stats();
    EXPECT_EQ(stats.running, 0);
    EXPECT_EQ(stats.waiting, 0);
    EXPECT_EQ(stats.free_blocks, stats.total_blocks);
    EXPECT_FALSE(scheduler_->HasWork());
  }

  EngineInfo info_;
  SchedulerOptions options_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<StrictEngine> engine_;
  absl::Time now_ = absl::UnixEpoch();
  std::map<SequenceId, SequenceUpdate> seen_;  // all tokens, and the last news
  StepPlan last_plan_;
};

// ------------------------------------------------------------------------------------------------- options and
// requests

TEST_F(SchedulerTest, RefusesOptionsThatDoNotFit) {
  const auto message = [&](auto change) {
    SchedulerOptions options = options_;
    EngineInfo info = info_;
    change(options, info);
    const absl::Status status = Scheduler::Create(options, info, MakeFcfsPolicy()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(Message(status));
  };
  EXPECT_THAT(message([](auto& o, auto&) { o.max_num_seqs = 0; }), HasSubstr("max_num_seqs is 0"));
  EXPECT_THAT(message([](auto& o, auto&) { o.max_num_seqs = 5; }), HasSubstr("in [1, 4]"));
  EXPECT_THAT(message([](auto& o, auto&) { o.max_num_batched_tokens = 3; }), HasSubstr("max_num_batched_tokens is 3"));
  EXPECT_THAT(message([](auto& o, auto&) { o.max_num_batched_tokens = 65; }), HasSubstr("in [4, 64]"));
  EXPECT_THAT(message([](auto& o, auto&) { o.max_prefill_chunk = -1; }), HasSubstr("max_prefill_chunk is -1"));
  EXPECT_THAT(message([](auto& o, auto&) { o.max_queue = 0; }), HasSubstr("max_queue is 0"));
  EXPECT_THAT(message([](auto&, auto& i) { i.cache_groups.clear(); }), HasSubstr("0 cache groups"));
  EXPECT_THAT(message([](auto&, auto& i) { i.cache_groups[0].num_blocks = 0; }), HasSubstr("num_blocks 0"));
  EXPECT_THAT(message([](auto&, auto& i) { i.cache_groups = {{.block_size = 1, .num_blocks = 1}}; }),
              HasSubstr("the cache holds 1 position"));
}

TEST_F(SchedulerTest, PoliciesAreKnownByName) {
  EXPECT_TRUE(MakePolicy("fcfs").ok());
  const absl::Status status = MakePolicy("lottery").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(Message(status)), HasSubstr("\"lottery\"; known policies: fcfs"));
}

TEST_F(SchedulerTest, RefusesBadRequests) {
  Start();
  const auto refusal = [&](Request request) {
    const absl::Status status = scheduler_->Add(std::move(request));
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(Message(status));
  };
  EXPECT_THAT(refusal(MakeRequest(1, {}, 5)), HasSubstr("prompt is empty"));
  EXPECT_THAT(refusal(MakeRequest(1, {1, 1000}, 5)), HasSubstr("prompt_ids[1] is 1000"));
  EXPECT_THAT(refusal(MakeRequest(1, {-1}, 5)), HasSubstr("prompt_ids[0] is -1"));
  EXPECT_THAT(refusal(MakeRequest(1, {1}, 0)), HasSubstr("max_tokens is 0"));
  EXPECT_THAT(refusal(MakeRequest(1, Count(200), 5)), HasSubstr("200 tokens; with one to generate there is room for at "
                                                                "most 199"));
  Add(1, Count(199), 5);
  RunToEnd();
  EXPECT_EQ(seen_[1].finish, FinishReason::kLength);
  EXPECT_EQ(seen_[1].tokens.size(), 1u) << "the context is full";
  ExpectNothingHeld();
}

TEST_F(SchedulerTest, WhatCanNeverFitIsRefused) {
  info_.cache_groups[0].num_blocks = 5;
  Start();
  EXPECT_EQ(scheduler_->Add(MakeRequest(1, Count(20), 1)).code(), absl::StatusCode::kInvalidArgument);
  Add(2, Count(15), 100);
  RunToEnd();
  EXPECT_EQ(seen_[2].finish, FinishReason::kLength);
  EXPECT_EQ(seen_[2].tokens.size(), 5u) << "what all blocks together hold";
}

TEST_F(SchedulerTest, TheQueueIsBounded) {
  options_.max_queue = 3;
  Start();
  for (SequenceId id = 1; id <= 3; ++id) Add(id, {1, 2}, 2);
  EXPECT_EQ(scheduler_->Add(MakeRequest(4, {1, 2}, 2)).code(), absl::StatusCode::kResourceExhausted);
  Submit();
  Add(5, {1, 2}, 2);
  Apply();
  RunToEnd();
  EXPECT_EQ(seen_.size(), 4u);
  ExpectNothingHeld();
}

// ------------------------------------------------------------------------------------------------------ shape of a
// step

TEST_F(SchedulerTest, PrefillsInChunksBesideDecodes) {
  options_.max_num_batched_tokens = 10;
  options_.max_prefill_chunk = 6;
  Start();
  Add(1, Count(5), 8);
  Add(2, Count(20, 100), 3);
  EXPECT_THAT(Step(), ElementsAre(5, 5));
  EXPECT_THAT(Step(), ElementsAre(1, 6));
  Add(3, Count(9, 300), 2);
  EXPECT_THAT(Step(), ElementsAre(1, 6, 3));
  EXPECT_THAT(Step(), ElementsAre(1, 3, 6));
  EXPECT_EQ(last_plan_.logits_rows.size(), 3u) << "everyone is through with the prompt";
  EXPECT_THAT(Step(), ElementsAre(1, 1, 1));
  RunToEnd();
  EXPECT_EQ(seen_[1].tokens, Alone(Count(5), 8));
  EXPECT_EQ(seen_[2].tokens, Alone(Count(20, 100), 3));
  EXPECT_EQ(seen_[3].tokens, Alone(Count(9, 300), 2));
}

TEST_F(SchedulerTest, FirstComeFirstServed) {
  options_.max_num_seqs = 2;
  Start();
  for (SequenceId id = 1; id <= 4; ++id) Add(id, Count(3, 10 * id), 2);
  EXPECT_THAT(Step(), ElementsAre(3, 3));
  EXPECT_EQ(last_plan_.token_ids, (std::vector<int32_t>{10, 11, 12, 20, 21, 22}));
  EXPECT_EQ(scheduler_->stats().running, 2);
  EXPECT_EQ(scheduler_->stats().waiting, 2);
  Step();
  EXPECT_EQ(seen_[1].finish, FinishReason::kLength);
  Step();
  EXPECT_EQ(last_plan_.token_ids, (std::vector<int32_t>{30, 31, 32, 40, 41, 42}));
}

TEST_F(SchedulerTest, SlotInitCarriesParametersOnce) {
  Start();
  Request request = MakeRequest(1, {1, 2, 3}, 3);
  request.params.repetition_penalty = 1.2f;
  request.params.max_tokens = 1000;
  ASSERT_TRUE(scheduler_->Add(std::move(request)).ok());
  Add(2, {4, 5}, 3);
  Submit();
  ASSERT_EQ(last_plan_.slot_inits.size(), 2u);
  EXPECT_THAT(last_plan_.slot_inits[0].prompt_ids, ElementsAre(1, 2, 3)) << "for the repetition penalty";
  EXPECT_EQ(last_plan_.slot_inits[0].params.max_tokens, 197) << "cut to the context";
  EXPECT_EQ(last_plan_.slot_inits[0].seed, 5u);
  EXPECT_THAT(last_plan_.slot_inits[1].prompt_ids, IsEmpty());
  EXPECT_THAT(last_plan_.slot_inits[1].output_ids, IsEmpty());
  Apply();
  Submit();
  EXPECT_THAT(last_plan_.slot_inits, IsEmpty());
  Apply();
}

TEST_F(SchedulerTest, SeedsAreOwnButRepeatable) {
  const auto seeds = [&](std::optional<uint64_t> seed) {
    options_.seed = seed;
    Start();
    for (SequenceId id = 1; id <= 3; ++id) {
      Request request = MakeRequest(id, {1}, 1);
      request.params.seed.reset();
      EXPECT_TRUE(scheduler_->Add(std::move(request)).ok());
    }
    std::vector<uint64_t> result;
    for (const SlotInit& init : scheduler_->Schedule(now_).slot_inits) result.push_back(init.seed);
    return result;
  };
  const std::vector<uint64_t> first = seeds(1);
  EXPECT_NE(first[0], first[1]);
  EXPECT_NE(first[1], first[2]);
  EXPECT_EQ(seeds(1), first);
  EXPECT_NE(seeds(2), first);
  EXPECT_NE(seeds(std::nullopt), seeds(std::nullopt));
}

// ------------------------------------------------------------------------------------------------------------- the end

TEST_F(SchedulerTest, StopsAtAStopIdAndReportsIt) {
  Start();
  const std::vector<int32_t> all = Alone(Count(4), 20);
  Request request = MakeRequest(1, Count(4), 20);
  request.params.stop_token_ids = {all[6]};
  ASSERT_TRUE(scheduler_->Add(std::move(request)).ok());
  RunToEnd();
  EXPECT_EQ(seen_[1].finish, FinishReason::kStop);
  EXPECT_EQ(seen_[1].tokens, std::vector<int32_t>(all.begin(), all.begin() + 7));
  EXPECT_EQ(seen_[1].stats.completion_tokens, 7);
  EXPECT_EQ(seen_[1].stats.prompt_tokens, 4);
  ExpectNothingHeld();
}

TEST_F(SchedulerTest, AStopIdDoesNotCountBeforeMinTokens) {
  Start();
  const std::vector<int32_t> all = Alone(Count(4), 20);
  Request request = MakeRequest(1, Count(4), 20);
  request.params.stop_token_ids = {all[2], all[9]};
  request.params.min_tokens = 3;
  ASSERT_TRUE(scheduler_->Add(std::move(request)).ok());
  RunToEnd();
  EXPECT_EQ(seen_[1].finish, FinishReason::kStop);
  EXPECT_EQ(seen_[1].tokens.size(), 10u);
}

TEST_F(SchedulerTest, FinishEndsWhoeverIsThere) {
  options_.max_num_seqs = 1;
  Start();
  Add(1, Count(4), 20);
  Add(2, Count(4), 20);
  Step();
  scheduler_->Finish(2, FinishReason::kCancelled);
  scheduler_->Finish(1, FinishReason::kStop);
  scheduler_->Finish(1, FinishReason::kCancelled);
  scheduler_->Finish(77, FinishReason::kCancelled);
  TakeUpdates();
  EXPECT_EQ(seen_.size(), 2u);
  EXPECT_EQ(seen_[1].finish, FinishReason::kStop);
  EXPECT_EQ(seen_[1].stats.completion_tokens, 1);
  EXPECT_EQ(seen_[2].finish, FinishReason::kCancelled);
  ExpectNothingHeld();
  EXPECT_THAT(Step(), IsEmpty());
}

TEST_F(SchedulerTest, DeadlinesEndWaitingAndRunning) {
  options_.max_num_seqs = 1;
  Start();
  EXPECT_EQ(scheduler_->NextDeadline(), absl::InfiniteFuture());
  for (SequenceId id = 1; id <= 3; ++id) {
    Request request = MakeRequest(id, Count(4), 20);
    request.deadline = absl::UnixEpoch() + absl::Seconds(id == 2 ? 1 : 2);
    ASSERT_TRUE(scheduler_->Add(std::move(request)).ok());
  }
  EXPECT_EQ(scheduler_->NextDeadline(), absl::UnixEpoch() + absl::Seconds(1));
  Step();
  now_ += absl::Seconds(1);
  Step();
  EXPECT_EQ(seen_[2].finish, FinishReason::kDeadline);
  EXPECT_EQ(seen_[2].stats.first_scheduled, absl::InfiniteFuture());
  EXPECT_EQ(scheduler_->NextDeadline(), absl::UnixEpoch() + absl::Seconds(2));
  now_ += absl::Seconds(5);
  EXPECT_THAT(Step(), IsEmpty());
  TakeUpdates();
  EXPECT_EQ(seen_[1].finish, FinishReason::kDeadline);
  EXPECT_EQ(seen_[3].finish, FinishReason::kDeadline);
  EXPECT_EQ(seen_[1].stats.finished, now_);
  ExpectNothingHeld();
}

TEST_F(SchedulerTest, ARowThatFailsEndsItsSequenceOnly) {
  Start();
  Add(1, Count(4), 3);
  Add(2, Count(5, 50), 3);
  Submit();
  StepResult result = engine_->Collect();
  result.rows[0].status = Internal("logits are not finite");
  scheduler_->Apply(result, now_);
  TakeUpdates();
  EXPECT_EQ(seen_[1].finish, FinishReason::kError);
  EXPECT_THAT(std::string(Message(seen_[1].error)), HasSubstr("not finite"));
  RunToEnd();
  EXPECT_EQ(seen_[2].tokens, Alone(Count(5, 50), 3));
  ExpectNothingHeld();
}

TEST_F(SchedulerTest, AStepThatFailsEndsThoseInIt) {
  options_.max_num_seqs = 2;
  Start();
  for (SequenceId id = 1; id <= 3; ++id) Add(id, Count(9, 10 * id), 3);
  Submit();
  engine_->Fail();
  scheduler_->ApplyFailure(ResourceExhausted("out of memory"), now_);
  TakeUpdates();
  EXPECT_EQ(seen_[1].finish, FinishReason::kError);
  EXPECT_EQ(seen_[2].error.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(scheduler_->stats().cached_blocks, 0) << "what the step may have written is nobody's prefix";
  RunToEnd();
  EXPECT_EQ(seen_[3].tokens, Alone(Count(9, 30), 3));
  ExpectNothingHeld();
}

// ------------------------------------------------------------------------------------------------- blocks and prefixes

TEST_F(SchedulerTest, TheSecondOfTwoEqualPromptsIsServedFromTheCache) {
  Start();
  Add(1, Count(21), 4);
  RunToEnd();
  Add(2, Count(21), 4);
  EXPECT_THAT(Step(), ElementsAre(1)) << "20 of 21 are cached";
  RunToEnd();
  EXPECT_EQ(seen_[2].stats.cached_tokens, 20);
  EXPECT_EQ(seen_[2].tokens, seen_[1].tokens);
  Add(3, Count(20), 4);
  EXPECT_THAT(Step(), ElementsAre(4)) << "the last token is computed in any case, and with it its block";
  EXPECT_EQ(scheduler_->stats().cached_tokens, 36);
  EXPECT_EQ(scheduler_->stats().prompt_tokens, 62);
}

TEST_F(SchedulerTest, OutputIsCachedTooForTheNextTurn) {
  Start();
  Add(1, Count(10), 11);
  RunToEnd();
  std::vector<int32_t> turn = Count(10);
  turn.insert(turn.end(), seen_[1].tokens.begin(), seen_[1].tokens.end());
  turn.push_back(500);
  Add(2, turn, 2);
  RunToEnd();
  EXPECT_EQ(seen_[2].stats.cached_tokens, 20);
  EXPECT_EQ(seen_[2].tokens, Alone(turn, 2));
}

TEST_F(SchedulerTest, TenantsDoNotShare) {
  Start();
  Add(1, Count(21), 2);
  RunToEnd();
  Request other = MakeRequest(2, Count(21), 2);
  other.tenant = "other";
  ASSERT_TRUE(scheduler_->Add(std::move(other)).ok());
  EXPECT_THAT(Step(), ElementsAre(21));
  RunToEnd();
  EXPECT_EQ(seen_[2].stats.cached_tokens, 0);
}

TEST_F(SchedulerTest, EqualPromptsThatArriveTogetherMeetOnTheWay) {
  options_.max_num_batched_tokens = 20;
  Start();
  Add(1, Count(50), 2);
  Add(2, Count(50), 2);
  EXPECT_THAT(Step(), ElementsAre(20));
  EXPECT_THAT(Step(), ElementsAre(20));
  EXPECT_THAT(Step(), ElementsAre(10, 10)) << "the second begins behind the 40 that are there";
  RunToEnd();
  EXPECT_EQ(seen_[2].stats.cached_tokens, 40);
  Add(3, Count(50, 100), 2);
  Add(4, Count(12, 400), 2);
  Add(5, Count(50, 100), 2);
  EXPECT_THAT(Step(), ElementsAre(20));
  EXPECT_THAT(Step(), ElementsAre(20));
  EXPECT_THAT(Step(), ElementsAre(10, 10));
  EXPECT_THAT(Step(), ElementsAre(1, 2, 2)) << "the fifth finds all but its last two in the cache";
  RunToEnd();
  EXPECT_EQ(seen_[5].stats.cached_tokens, 48);
  EXPECT_EQ(seen_[5].tokens, seen_[3].tokens);
}

TEST_F(SchedulerTest, PreemptsTheLatestAndLosesNothing) {
  info_.cache_groups[0].num_blocks = 14;  // 56 positions
  Start();
  for (SequenceId id = 1; id <= 3; ++id) Add(id, Count(8, 100 * id), 20);
  RunToEnd();
  for (SequenceId id = 1; id <= 3; ++id) {
    EXPECT_EQ(seen_[id].tokens, Alone(Count(8, 100 * id), 20));
    EXPECT_EQ(seen_[id].finish, FinishReason::kLength);
  }
  EXPECT_EQ(seen_[1].stats.preemptions, 0) << "who came first is never disturbed";
  EXPECT_GT(seen_[3].stats.preemptions, 0);
  EXPECT_EQ(seen_[3].stats.cached_tokens, 0) << "what it computed itself is no hit";
  EXPECT_GT(scheduler_->stats().preemptions, 0);
  ExpectNothingHeld();
}

TEST_F(SchedulerTest, WhatWasPushedOutComesBackFromTheHost) {
  info_.cache_groups[0].num_blocks = 20;
  info_.cache_groups[0].num_host_blocks = 40;
  Start();
  Add(1, Count(33), 4);
  RunToEnd();
  for (SequenceId id = 2; id <= 3; ++id) {
    Add(id, Count(50, 100 * id), 4);  // 14 blocks each
    Step();
    EXPECT_GE(scheduler_->stats().host_blocks, 8) << "copied before anybody needs the room";
    RunToEnd();
  }
  Add(4, Count(33), 4);
  EXPECT_THAT(Step(), IsEmpty()) << "the first step fetches";
  EXPECT_FALSE(last_plan_.empty());
  Add(5, Count(6, 900), 4);
  EXPECT_THAT(Step(), ElementsAre(1, 6)) << "and the next goes on from there";
  RunToEnd();
  EXPECT_EQ(seen_[4].stats.cached_tokens, 32);
  EXPECT_EQ(scheduler_->stats().restored_tokens, 32);
  EXPECT_EQ(seen_[4].tokens, Alone(Count(33), 4));
  ExpectNothingHeld();
}

TEST_F(SchedulerTest, NobodyWaitsWhileTheHostIsRead) {
  info_.cache_groups[0].num_blocks = 30;
  info_.cache_groups[0].num_host_blocks = 40;
  Start();
  Add(1, Count(33), 4);
  RunToEnd();
  Add(2, Count(60, 100), 4);
  RunToEnd();
  Add(3, Count(40, 300), 30);
  Step();
  Step();
  Add(4, Count(33), 4);
  EXPECT_THAT(Step(), ElementsAre(1)) << "who decodes gets its token in the step that fetches for the other";
  EXPECT_THAT(Step(), ElementsAre(1, 1));
  RunToEnd();
  EXPECT_EQ(seen_[4].tokens, Alone(Count(33), 4));
  EXPECT_EQ(seen_[3].tokens, Alone(Count(40, 300), 30));
}

TEST_F(SchedulerTest, ASequenceThatWasPreemptedFindsItsBlocksOnTheHost) {
  info_.cache_groups[0].num_blocks = 14;
  info_.cache_groups[0].num_host_blocks = 40;
  Start();
  for (SequenceId id = 1; id <= 3; ++id) Add(id, Count(8, 100 * id), 20);
  RunToEnd();
  for (SequenceId id = 1; id <= 3; ++id) EXPECT_EQ(seen_[id].tokens, Alone(Count(8, 100 * id), 20));
  EXPECT_GT(seen_[3].stats.preemptions, 0);
  EXPECT_EQ(seen_[3].stats.cached_tokens, 0) << "what it computed itself is no hit";
  EXPECT_GT(scheduler_->stats().restored_tokens, 0);
  ExpectNothingHeld();
}

TEST_F(SchedulerTest, AFetchTakesNoMoreThanAStepsWorthAtATime) {
  info_.cache_groups[0].num_blocks = 28;  // the second prompt takes all
  info_.cache_groups[0].num_host_blocks = 60;
  Start();
  Add(1, Count(85), 2);
  RunToEnd();
  Add(2, Count(110, 200), 2);
  RunToEnd();
  Add(3, Count(85), 2);
  // Of 21 blocks one was given out in the same step in which it could have been copied.
  for (const int64_t num_blocks : {8, 8, 4}) {
    EXPECT_THAT(Step(), IsEmpty());
    const auto fetched = std::ranges::count(last_plan_.transfers, false, &BlockTransfer::to_host);
    EXPECT_EQ(fetched, num_blocks);
  }
  EXPECT_THAT(Step(), ElementsAre(5));
  RunToEnd();
  EXPECT_EQ(seen_[3].tokens, Alone(Count(85), 2));
}

TEST_F(SchedulerTest, PromptsThatBeginAlikeAreFetchedOnce) {
  info_.cache_groups[0].num_blocks = 28;  // the second prompt takes all
  info_.cache_groups[0].num_host_blocks = 60;
  Start();
  Add(1, Count(50), 2);
  RunToEnd();
  Add(2, Count(110, 200), 2);
  RunToEnd();
  Add(3, Count(50), 2);
  Add(4, Count(50), 2);
  int64_t fetched = 0;
  for (int step = 0; step < 2; ++step) {
    EXPECT_THAT(Step(), IsEmpty());
    fetched += std::ranges::count(last_plan_.transfers, false, &BlockTransfer::to_host);
  }
  EXPECT_EQ(fetched, 12);
  EXPECT_THAT(Step(), ElementsAre(2, 2));
  RunToEnd();
  for (const SequenceId id : {3, 4}) {
    EXPECT_EQ(seen_[id].tokens, Alone(Count(50), 2));
    EXPECT_EQ(seen_[id].stats.cached_tokens, 48);
  }
  EXPECT_EQ(scheduler_->stats().restored_tokens, 48) << "the other found them on the device";
}

TEST_F(SchedulerTest, AFetchThatFailsEndsItsSequence) {
  info_.cache_groups[0].num_blocks = 20;
  info_.cache_groups[0].num_host_blocks = 40;
  Start();
  Add(1, Count(33), 4);
  RunToEnd();
  for (SequenceId id = 2; id <= 3; ++id) {
    Add(id, Count(50, 100 * id), 4);
    RunToEnd();
  }
  Add(4, Count(33), 4);
  Submit();
  engine_->Fail();
  scheduler_->ApplyFailure(Internal("no copy"), now_);
  TakeUpdates();
  EXPECT_EQ(seen_[4].finish, FinishReason::kError);
  ExpectNothingHeld();
  Add(5, Count(33), 4);
  RunToEnd();
  EXPECT_EQ(seen_[5].tokens, Alone(Count(33), 4));
  EXPECT_EQ(seen_[5].stats.cached_tokens, 32) << "the host has it still";
}

TEST_F(SchedulerTest, APausedSequenceKeepsWhatItHasUntilItIsNeeded) {
  info_.cache_groups[0].num_blocks = 12;  // 48 positions
  Start();
  Add(1, Count(20), 8);
  Step();
  scheduler_->SetPaused(1, true);
  EXPECT_FALSE(scheduler_->HasWork());
  EXPECT_THAT(Step(), IsEmpty());
  EXPECT_EQ(scheduler_->stats().running, 1);
  scheduler_->SetPaused(1, false);
  EXPECT_THAT(Step(), ElementsAre(1)) << "it goes on where it was";
  scheduler_->SetPaused(1, true);
  Add(2, Count(40, 100), 8);
  RunToEnd();
  EXPECT_EQ(seen_[2].tokens, Alone(Count(40, 100), 8)) << "though the first came earlier";
  EXPECT_EQ(scheduler_->stats().waiting, 1);
  EXPECT_FALSE(scheduler_->HasWork());
  scheduler_->SetPaused(1, false);
  EXPECT_TRUE(scheduler_->HasWork());
  RunToEnd();
  EXPECT_EQ(seen_[1].tokens, Alone(Count(20), 8));
  EXPECT_EQ(seen_[1].stats.preemptions, 1);
  ExpectNothingHeld();
}

TEST_F(SchedulerTest, PausedSequencesDoNotKeepSlotsFromOthers) {
  options_.max_num_seqs = 2;
  Start();
  for (SequenceId id = 1; id <= 2; ++id) Add(id, Count(5), 4);
  Step();
  for (SequenceId id = 1; id <= 2; ++id) scheduler_->SetPaused(id, true);
  Add(3, Count(6, 100), 4);
  RunToEnd();
  EXPECT_EQ(seen_[3].finish, FinishReason::kLength);
  scheduler_->Finish(1, FinishReason::kCancelled);
  scheduler_->SetPaused(2, false);
  RunToEnd();
  EXPECT_EQ(seen_[2].tokens, Alone(Count(5), 4));
  ExpectNothingHeld();
}

// ------------------------------------------------------------------------------------------------ more steps in flight

TEST_F(SchedulerTest, PlansAheadOfTheResult) {
  info_.max_steps_in_flight = 2;
  Start();
  Add(1, Count(6), 4);
  EXPECT_THAT(Submit(), ElementsAre(6));
  EXPECT_THAT(Submit(), ElementsAre(1));
  EXPECT_THAT(last_plan_.token_ids, ElementsAre(kPendingToken));
  EXPECT_THAT(last_plan_.positions, ElementsAre(6));
  Apply();
  EXPECT_THAT(Submit(), ElementsAre(1));
  Apply();
  EXPECT_THAT(Submit(), ElementsAre(1));
  Apply();
  EXPECT_THAT(Submit(), IsEmpty()) << "max_tokens are under way";
  EXPECT_TRUE(scheduler_->HasWork());
  Apply();
  EXPECT_EQ(seen_[1].tokens, Alone(Count(6), 4));
  ExpectNothingHeld();
}

TEST_F(SchedulerTest, TheTokenAfterTheEndIsDiscardedAndBlocksWaitForIt) {
  info_.max_steps_in_flight = 2;
  Start();
  const std::vector<int32_t> all = Alone(Count(6), 4);
  Request request = MakeRequest(1, Count(6), 20);
  request.params.stop_token_ids = {all[1]};
  ASSERT_TRUE(scheduler_->Add(std::move(request)).ok());
  Submit();
  Submit();
  Apply();
  Submit();
  Apply();
  EXPECT_EQ(seen_[1].finish, FinishReason::kStop);
  EXPECT_EQ(scheduler_->stats().running, 0);
  EXPECT_LT(scheduler_->stats().free_blocks, scheduler_->stats().total_blocks) << "a step in flight uses them";
  EXPECT_TRUE(scheduler_->HasWork());
  Apply();
  EXPECT_EQ(seen_[1].tokens, std::vector<int32_t>(all.begin(), all.begin() + 2));
  ExpectNothingHeld();
}

}  // namespace
}  // namespace moed

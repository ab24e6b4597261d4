#include "serving/serving_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <latch>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "scheduler/policy.h"
#include "tests/support/fake_engine.h"
#include "tests/support/tiny_tokenizer.h"

namespace moed {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

constexpr int32_t kHello = 256, kStopHere = 257, kEnd = 258, kEos = 259;

std::shared_ptr<const Tokenizer> TestTokenizer() {
  static const auto tokenizer = MakeTinyTokenizer({" hello", "x END more", "END"});
  return tokenizer;
}

// What a reader saw of one response.
struct Response {
  std::vector<std::string> pieces;
  std::string text;
  std::vector<int32_t> token_ids;
  std::vector<TokenLogprobs> logprobs;
  ResponseChunk last;
};

Response ReadAll(ResponseStream& stream) {
  Response response;
  do {
    response.last = stream.Next();
    response.pieces.push_back(response.last.text);
    response.text += response.last.text;
    for (int32_t id : response.last.token_ids) response.token_ids.push_back(id);
    for (const TokenLogprobs& logprobs : response.last.logprobs) response.logprobs.push_back(logprobs);
  } while (!response.last.last());
  return response;
}

std::vector<int32_t> ExpectedTokens(std::vector<int32_t> context, int32_t count, int32_t vocab_size) {
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < count; ++i) {
    tokens.push_back(FakeNextToken(context, vocab_size));
    context.push_back(tokens.back());
  }
  return tokens;
}

// Runs with one and with two steps in flight.
class ServingLoopTest : public ::testing::TestWithParam<int32_t> {
 protected:
  ServingLoopTest() {
    engine_options_.info.max_steps_in_flight = GetParam();
    engine_options_.info.vocab_size = 260;
    options_.log_requests = false;
    options_.scheduler.max_num_seqs = engine_options_.info.max_slots;
    options_.scheduler.max_num_batched_tokens = engine_options_.info.max_tokens_per_step;
  }

  // A prompt of one token t is continued by scripts[t].
  void UseScripts(const std::vector<std::vector<int32_t>>& scripts) {
    engine_options_.next_token = [scripts](std::span<const int32_t> context) {
      const std::vector<int32_t>& script = scripts.at(context[0]);
      return script.at((context.size() - 1) % script.size());
    };
  }

  void Start() {
    auto engine = std::make_unique<FakeEngine>(engine_options_);
    engine_ = engine.get();
    auto loop = ServingLoop::Create(options_, std::move(engine), MakeFcfsPolicy(), TestTokenizer());
    MOED_CHECK(loop.ok(), "{}", loop.status().ToString());
    loop_ = std::move(loop).value();
  }

  GenerateRequest MakeRequest(std::vector<int32_t> prompt, int32_t max_tokens) {
    GenerateRequest request;
    request.prompt_ids = std::move(prompt);
    request.params.max_tokens = max_tokens;
    return request;
  }

  std::shared_ptr<ResponseStream> Submit(GenerateRequest request) {
    auto stream = loop_->Submit(std::move(request));
    MOED_CHECK(stream.ok(), "{}", stream.status().ToString());
    return *stream;
  }

  Response Run(GenerateRequest request) { return ReadAll(*Submit(std::move(request))); }

  // What a request holds is free within one step of its end: so all is free soon after the last has ended.
  void ExpectNothingHeld() {
    ServingStats stats;
    for (int tries = 0; tries < 1000; ++tries) {
      stats = loop_->stats();
      if (stats.open_requests == 0 && stats.scheduler.free_blocks == stats.scheduler.total_blocks) break;
      absl::SleepFor(absl::Milliseconds(5));
    }
    EXPECT_EQ(stats.open_requests, 0);
    EXPECT_EQ(stats.held_back, 0);
    EXPECT_EQ(stats.scheduler.running, 0);
    EXPECT_EQ(stats.scheduler.waiting, 0);
    EXPECT_EQ(stats.scheduler.free_blocks, stats.scheduler.total_blocks);
  }

  FakeEngineOptions engine_options_;
  ServingOptions options_;
  FakeEngine* engine_ = nullptr;  // owned by the loop
  std::unique_ptr<ServingLoop> loop_;
};

INSTANTIATE_TEST_SUITE_P(StepsInFlight, ServingLoopTest, ::testing::Values(1, 2));

TEST_P(ServingLoopTest, ManyAtOnceGetTheirOwnTokens) {
  Start();
  std::vector<std::shared_ptr<ResponseStream>> streams;
  std::vector<std::vector<int32_t>> prompts;
  for (int32_t i = 0; i < 20; ++i) {
    prompts.emplace_back();
    for (int32_t j = 0; j <= i * 3; ++j) prompts.back().push_back((i * 7 + j) % 256);
    streams.push_back(Submit(MakeRequest(prompts.back(), 5 + i)));
  }
  for (int32_t i = 0; i < 20; ++i) {
    const Response response = ReadAll(*streams[i]);
    EXPECT_THAT(response.token_ids, ElementsAreArray(ExpectedTokens(prompts[i], 5 + i, 260))) << i;
    EXPECT_EQ(response.last.finish, FinishReason::kLength);
    EXPECT_TRUE(response.last.status.ok());
    EXPECT_EQ(response.last.stats.prompt_tokens, std::ssize(prompts[i]));
    EXPECT_EQ(response.last.stats.completion_tokens, 5 + i);
    EXPECT_LE(response.last.stats.first_token, response.last.stats.finished);
  }
  ExpectNothingHeld();
}

TEST_P(ServingLoopTest, ReportsLogprobs) {
  Start();
  GenerateRequest request = MakeRequest({1, 2}, 4);
  request.params.logprobs = 3;
  const Response response = Run(request);
  ASSERT_EQ(response.logprobs.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(response.logprobs[i].chosen.id, response.token_ids[i]);
    EXPECT_EQ(response.logprobs[i].top.size(), 3u);
  }
}

TEST_P(ServingLoopTest, StopStringAcrossTokensIsNeverShown) {
  UseScripts({{'a', 'E', 'N', 'b', 'E', 'N', 'D', 'z'}});
  Start();
  GenerateRequest request = MakeRequest({0}, 100);
  request.params.stop = {"END"};
  const Response response = Run(request);
  EXPECT_EQ(response.text, "aENb");
  EXPECT_EQ(response.last.finish, FinishReason::kStop);
  EXPECT_EQ(response.last.stats.completion_tokens, 7);
  EXPECT_THAT(response.token_ids, ElementsAreArray({'a', 'E', 'N', 'b', 'E', 'N', 'D'}));
  ExpectNothingHeld();

  request.params.include_stop_in_output = true;
  EXPECT_EQ(Run(request).text, "aENbEND");
}

TEST_P(ServingLoopTest, StopStringInsideOneToken) {
  UseScripts({{kHello, kStopHere, 'y'}});
  Start();
  GenerateRequest request = MakeRequest({0}, 100);
  request.params.stop = {"END"};
  EXPECT_EQ(Run(request).text, " hellox ");
  request.params.include_stop_in_output = true;
  EXPECT_EQ(Run(request).text, " hellox END");
}

TEST_P(ServingLoopTest, WhatLooksLikeAStopComesOutAtTheEnd) {
  UseScripts({{'a', 'E', 'N'}});
  Start();
  GenerateRequest request = MakeRequest({0}, 3);
  request.params.stop = {"END"};
  const Response response = Run(request);
  EXPECT_EQ(response.text, "aEN");
  EXPECT_EQ(response.last.finish, FinishReason::kLength);
}

TEST_P(ServingLoopTest, StopStringWithTheLastTokenIsAStop) {
  UseScripts({{'a', kEnd}});
  Start();
  GenerateRequest request = MakeRequest({0}, 2);
  request.params.stop = {"END"};
  const Response response = Run(request);
  EXPECT_EQ(response.text, "a");
  EXPECT_EQ(response.last.finish, FinishReason::kStop);
}

TEST_P(ServingLoopTest, NoStopBeforeMinTokens) {
  UseScripts({{'a', kEnd, 'b', kEnd, 'c'}});
  Start();
  GenerateRequest request = MakeRequest({0}, 100);
  request.params.stop = {"END"};
  request.params.min_tokens = 3;
  const Response response = Run(request);
  EXPECT_EQ(response.text, "aENDb");
  EXPECT_EQ(response.token_ids.size(), 4u);
}

TEST_P(ServingLoopTest, AStopStringMayBeginBeforeMinTokens) {
  UseScripts({{'a', 'E', 'N', 'D', 'b'}});
  Start();
  GenerateRequest request = MakeRequest({0}, 100);
  request.params.stop = {"END"};
  request.params.min_tokens = 4;
  EXPECT_EQ(Run(request).text, "a");
  request.params.min_tokens = 5;
  request.params.max_tokens = 5;
  EXPECT_EQ(Run(request).text, "aENDb");
}

TEST_P(ServingLoopTest, StopTokensAreCountedAndNotShown) {
  UseScripts({{'a', 'b', kEos}});
  engine_options_.info.eos_token_ids = {kEos};
  Start();
  GenerateRequest request = MakeRequest({0}, 100);
  Response response = Run(request);
  EXPECT_EQ(response.text, "ab");
  EXPECT_EQ(response.last.finish, FinishReason::kStop);
  EXPECT_EQ(response.token_ids.back(), kEos);

  request.params.stop_token_ids = {'b'};
  EXPECT_EQ(Run(request).text, "a");
  request.params.include_stop_in_output = true;
  EXPECT_EQ(Run(request).text, "ab");

  request.params = {};
  request.params.max_tokens = 5;
  request.params.ignore_eos = true;
  request.params.skip_special_tokens = false;
  EXPECT_EQ(Run(request).text, "ab<eos>ab");
}

TEST_P(ServingLoopTest, CharactersStayWhole) {
  UseScripts({{0xE4, 0xB8, 0xAD, 0xE6, 0x96}});  // 中, then a part of 文
  Start();
  const Response response = Run(MakeRequest({0}, 5));
  EXPECT_EQ(response.text, "中\uFFFD");
  for (const std::string& piece : response.pieces) EXPECT_TRUE(piece.empty() || piece.size() % 3 == 0) << piece;
}

TEST_P(ServingLoopTest, SlowReaderIsHeldBackWhileOthersGoOn) {
  options_.stream_capacity = 4;
  options_.slow_reader_timeout = absl::Hours(1);
  Start();
  auto unread = Submit(MakeRequest({1}, 100));
  for (int i = 0; i < 1000 && loop_->stats().held_back == 0; ++i) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(loop_->stats().held_back, 1);
  for (int32_t i = 0; i < 5; ++i) {
    EXPECT_THAT(Run(MakeRequest({2, i}, 50)).token_ids, ElementsAreArray(ExpectedTokens({2, i}, 50, 260)));
  }
  // Read at last: not a token is missing.
  const Response response = ReadAll(*unread);
  EXPECT_THAT(response.token_ids, ElementsAreArray(ExpectedTokens({1}, 100, 260)));
  EXPECT_EQ(response.last.finish, FinishReason::kLength);
  ExpectNothingHeld();
}

TEST_P(ServingLoopTest, SlowReaderIsCutOffInTheEnd) {
  options_.stream_capacity = 4;
  options_.slow_reader_timeout = absl::Milliseconds(50);
  Start();
  auto unread = Submit(MakeRequest({1}, 100));
  for (int i = 0; i < 1000 && loop_->stats().open_requests > 0; ++i) absl::SleepFor(absl::Milliseconds(5));
  ExpectNothingHeld();
  const Response response = ReadAll(*unread);
  EXPECT_TRUE(absl::IsResourceExhausted(response.last.status)) << response.last.status;
  EXPECT_THAT(std::string(Message(response.last.status)), HasSubstr("was not read"));
  EXPECT_GE(response.token_ids.size(), 4u);
  EXPECT_LT(response.token_ids.size(), 10u);
}

// The stop string is complete with the very token that fills the stream.
TEST_P(ServingLoopTest, AnAnswerThatIsCompleteIsNeverCutOff) {
  UseScripts({{'a', 'E', 'N', 'D', 'z'}});
  std::latch begin{1};
  engine_options_.next_token = [&begin, next = engine_options_.next_token](std::span<const int32_t> context) {
    begin.wait();
    return next(context);
  };
  options_.stream_capacity = 4;
  Start();
  GenerateRequest request = MakeRequest({0}, 100);
  request.params.stop = {"END"};
  auto stream = Submit(request);
  std::atomic<bool> failed{false};
  std::latch ended{1};
  stream->OnFailureWhileHeldBack([&](const ResponseChunk&) { failed = true; });
  stream->OnEndWhileBusy([&] { ended.count_down(); });
  begin.count_down();
  ended.wait();
  ExpectNothingHeld();
  EXPECT_FALSE(failed);
  const Response response = ReadAll(*stream);
  EXPECT_TRUE(response.last.status.ok());
  EXPECT_EQ(response.text, "a");
  EXPECT_THAT(response.token_ids, ElementsAreArray({'a', 'E', 'N', 'D'}));
}

TEST_P(ServingLoopTest, FailureWhileHeldBackIsTold) {
  options_.stream_capacity = 4;
  options_.slow_reader_timeout = absl::Milliseconds(50);
  std::latch begin{1};
  engine_options_.next_token = [&begin](std::span<const int32_t>) {
    begin.wait();
    return 'a';
  };
  Start();
  auto stream = Submit(MakeRequest({1}, 100));
  std::promise<ResponseChunk> last;
  stream->OnFailureWhileHeldBack([&](const ResponseChunk& chunk) { last.set_value(chunk); });
  stream->OnEndWhileBusy([] { ADD_FAILURE() << "the reader is told twice"; });
  begin.count_down();
  EXPECT_TRUE(absl::IsResourceExhausted(last.get_future().get().status));
  ExpectNothingHeld();
}

TEST_P(ServingLoopTest, CancelEndsARequestRunningOrQueued) {
  options_.scheduler.max_num_seqs = 1;
  engine_options_.step_time = absl::Milliseconds(2);
  Start();
  auto running = Submit(MakeRequest({1}, 200));
  running->Next();
  auto queued = Submit(MakeRequest({2}, 200));
  std::thread([&] {
    queued->Cancel();
    running->Cancel();
  }).join();
  for (ResponseStream* stream : {running.get(), queued.get()}) {
    const Response response = ReadAll(*stream);
    EXPECT_EQ(response.last.finish, FinishReason::kCancelled);
    EXPECT_TRUE(absl::IsCancelled(response.last.status));
  }
  running->Cancel();  // no effect any more
  ExpectNothingHeld();
}

TEST_P(ServingLoopTest, DeadlineEndsARequestRunningOrQueued) {
  options_.scheduler.max_num_seqs = 1;
  engine_options_.step_time = absl::Milliseconds(5);
  Start();
  GenerateRequest request = MakeRequest({1}, 250);
  request.deadline = absl::Now() + absl::Milliseconds(100);
  auto running = Submit(request);
  running->Next();
  auto queued = Submit(request);
  for (ResponseStream* stream : {running.get(), queued.get()}) {
    const Response response = ReadAll(*stream);
    EXPECT_EQ(response.last.finish, FinishReason::kDeadline);
    EXPECT_TRUE(absl::IsDeadlineExceeded(response.last.status)) << response.last.status;
  }
  ExpectNothingHeld();
}

// gRPC cancels a call whose deadline has passed; that is no client that went away.
TEST_P(ServingLoopTest, CancelPastTheDeadlineIsTheDeadline) {
  std::latch begin{1};
  engine_options_.next_token = [&begin](std::span<const int32_t>) {
    begin.wait();
    return 'a';
  };
  Start();
  GenerateRequest request = MakeRequest({1}, 250);
  request.deadline = absl::Now() + absl::Milliseconds(20);
  auto stream = Submit(request);
  while (absl::Now() < request.deadline) absl::SleepFor(absl::Milliseconds(1));
  stream->Cancel();
  begin.count_down();
  EXPECT_EQ(ReadAll(*stream).last.finish, FinishReason::kDeadline);
  ExpectNothingHeld();
}

TEST_P(ServingLoopTest, DeadlineEndsAHeldBackRequest) {
  options_.stream_capacity = 2;
  Start();
  GenerateRequest request = MakeRequest({1}, 250);
  request.deadline = absl::Now() + absl::Milliseconds(60);
  auto unread = Submit(request);
  ExpectNothingHeld();
  EXPECT_EQ(ReadAll(*unread).last.finish, FinishReason::kDeadline);
}

TEST_P(ServingLoopTest, FullQueueRefuses) {
  options_.scheduler.max_num_seqs = 1;
  options_.scheduler.max_queue = 2;
  engine_options_.step_time = absl::Milliseconds(2);
  Start();
  std::vector<std::shared_ptr<ResponseStream>> streams;
  int refused = 0;
  for (int32_t i = 0; i < 20; ++i) {
    auto stream = loop_->Submit(MakeRequest({i}, 20));
    if (stream.ok()) {
      streams.push_back(*stream);
    } else {
      EXPECT_TRUE(absl::IsResourceExhausted(stream.status())) << stream.status();
      ++refused;
    }
  }
  int completed = 0;
  for (auto& stream : streams) {
    const Response response = ReadAll(*stream);
    if (response.last.status.ok()) {
      ++completed;
    } else {
      EXPECT_TRUE(absl::IsResourceExhausted(response.last.status)) << response.last.status;
      ++refused;
    }
  }
  EXPECT_GE(completed, 2);
  EXPECT_GE(refused, 10);
  ExpectNothingHeld();
}

TEST_P(ServingLoopTest, BadRequestsAreRefusedAtOnce) {
  Start();
  const auto code_of = [&](GenerateRequest request) { return loop_->Submit(std::move(request)).status().code(); };
  EXPECT_EQ(code_of(MakeRequest({}, 1)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code_of(MakeRequest({260}, 1)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code_of(MakeRequest({-1}, 1)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code_of(MakeRequest(std::vector<int32_t>(256, 1), 1)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code_of(MakeRequest({1}, 0)), absl::StatusCode::kInvalidArgument);
  GenerateRequest request = MakeRequest({1}, 1);
  request.params.temperature = std::nanf("");
  EXPECT_EQ(code_of(request), absl::StatusCode::kInvalidArgument);
}

TEST_P(ServingLoopTest, AFailedStepEndsItsRequestsOnly) {
  auto fail_next = std::make_shared<std::atomic<bool>>(true);
  engine_options_.fail = [fail_next](const StepPlan&) {
    return fail_next->exchange(false) ? Internal("the device is gone") : absl::OkStatus();
  };
  Start();
  const Response failed = Run(MakeRequest({1}, 10));
  EXPECT_EQ(failed.last.finish, FinishReason::kError);
  EXPECT_TRUE(absl::IsInternal(failed.last.status));
  EXPECT_THAT(std::string(Message(failed.last.status)), HasSubstr("the device is gone"));
  EXPECT_THAT(Run(MakeRequest({1}, 10)).token_ids, ElementsAreArray(ExpectedTokens({1}, 10, 260)));
  ExpectNothingHeld();
}

TEST_P(ServingLoopTest, DrainFinishesWhatIsThere) {
  engine_options_.step_time = absl::Milliseconds(1);
  Start();
  auto stream = Submit(MakeRequest({1}, 50));
  std::thread drain([&] { EXPECT_EQ(loop_->Drain(absl::Now() + absl::Minutes(1)), 0); });
  EXPECT_EQ(ReadAll(*stream).token_ids.size(), 50u);
  drain.join();
  EXPECT_TRUE(absl::IsUnavailable(loop_->Submit(MakeRequest({1}, 1)).status()));
  ExpectNothingHeld();
}

TEST_P(ServingLoopTest, DrainCutsOffAtItsDeadline) {
  engine_options_.step_time = absl::Milliseconds(10);
  Start();
  auto stream = Submit(MakeRequest({1}, 250));
  std::thread patient([&] { EXPECT_EQ(loop_->Drain(absl::InfiniteFuture()), 1); });
  EXPECT_EQ(loop_->Drain(absl::Now() + absl::Milliseconds(40)), 1);
  patient.join();
  EXPECT_TRUE(absl::IsUnavailable(ReadAll(*stream).last.status));
  ExpectNothingHeld();
}

TEST_P(ServingLoopTest, TheEndOfTheLoopEndsItsRequests) {
  engine_options_.step_time = absl::Milliseconds(1);
  Start();
  auto stream = Submit(MakeRequest({1}, 250));
  auto another = Submit(MakeRequest({2}, 250));
  loop_.reset();
  EXPECT_TRUE(absl::IsUnavailable(ReadAll(*stream).last.status));
  EXPECT_TRUE(absl::IsUnavailable(ReadAll(*another).last.status));
  another->Cancel();
}

// Reads a stream as the service does: woken by the loop, without a thread of its own.
struct AsyncReader {
  explicit AsyncReader(std::shared_ptr<ResponseStream> from) : stream(std::move(from)) {}
  std::shared_ptr<ResponseStream> stream;
  std::vector<int32_t> token_ids;
  std::atomic<int> wakes{0};
  std::latch done{1};

  void Read() {
    while (auto chunk = stream->Poll([this] {
      ++wakes;
      Read();
    })) {
      token_ids.insert(token_ids.end(), chunk->token_ids.begin(), chunk->token_ids.end());
      if (!chunk->last()) continue;
      done.count_down();
      return;
    }
  }
};

TEST_P(ServingLoopTest, PollWakesItsReader) {
  engine_options_.step_time = absl::Milliseconds(1);
  Start();
  AsyncReader reader(Submit(MakeRequest({1}, 30)));
  reader.Read();
  reader.done.wait();
  EXPECT_THAT(reader.token_ids, ElementsAreArray(ExpectedTokens({1}, 30, 260)));
  EXPECT_GT(reader.wakes, 0);
  loop_.reset();  // the notifier may still be inside the last wake
}

TEST_P(ServingLoopTest, StrangersCancelsAndDeadlinesDisturbNobody) {
  options_.stream_capacity = 8;
  options_.scheduler.max_queue = 10000;
  engine_options_.step_time = absl::Microseconds(50);
  engine_options_.info.cache_groups[0].num_blocks = 64;  // few: sequences are preempted
  Start();
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::atomic<int> completed{0};
  std::vector<std::thread> clients;
  clients.reserve(8);
  for (int c = 0; c < 8; ++c) {
    clients.emplace_back([&, c] {
      std::mt19937_64 random(seed + c);
      for (int i = 0; i < 25; ++i) {
        std::vector<int32_t> prompt(1 + random() % 40);
        for (int32_t& id : prompt) id = static_cast<int32_t>(random() % 3);
        const int32_t max_tokens = 1 + random() % 60;
        GenerateRequest request = MakeRequest(prompt, max_tokens);
        const bool cancel = random() % 10 == 0, expire = random() % 20 == 0;
        if (expire) request.deadline = absl::Now() + absl::Microseconds(random() % 5000);
        auto stream = Submit(request);
        if (cancel) {
          absl::SleepFor(absl::Microseconds(random() % 2000));
          stream->Cancel();
        }
        const Response response = ReadAll(*stream);
        const std::vector<int32_t> expected = ExpectedTokens(prompt, max_tokens, 260);
        if (response.last.status.ok()) {
          EXPECT_THAT(response.token_ids, ElementsAreArray(expected));
          ++completed;
        } else {
          EXPECT_TRUE((cancel && absl::IsCancelled(response.last.status)) ||
                      (expire && absl::IsDeadlineExceeded(response.last.status)))
              << response.last.status;
          EXPECT_THAT(response.token_ids,
                      ElementsAreArray(expected.begin(), expected.begin() + response.token_ids.size()));
        }
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_GT(completed, 100);
  ExpectNothingHeld();
}

}  // namespace
}  // namespace moed

// moed bench serve: what clients of a running server get, from many of them at once.
#include <fmt/format.h>
#include <grpcpp/grpcpp.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/logging.h"
#include "cli/commands.h"
#include "moed/v1/inference.grpc.pb.h"

namespace moed {
namespace {

using Clock = std::chrono::steady_clock;

struct ServeFlags {
  std::string server = "127.0.0.1:50051";
  std::string model;
  int32_t clients = 32;
  int32_t requests = 128;
  double rate = 0;
  int32_t prompt = 128;
  int32_t generate = 64;
  uint64_t seed = 0;
  bool json = false;
};

double SecondsBetween(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

// What one request saw, in seconds from when it was due.
struct Timing {
  double first = 0, last = 0;
  int64_t tokens = 0;
};

struct Tally {
  std::mutex mutex;
  std::vector<Timing> timings;              // of those that succeeded
  std::map<std::string, int64_t> failures;  // by status and message
  void Add(const Timing& timing) {
    std::lock_guard lock(mutex);
    timings.push_back(timing);
  }
  void AddFailure(const grpc::Status& status) {
    std::lock_guard lock(mutex);
    ++failures[fmt::format("{}: {}", absl::StatusCodeToString(static_cast<absl::StatusCode>(status.error_code())),
                           status.error_message())];
  }
};

// The requests, which the clients take one after the other.
class Load {
 public:
  Load(const ServeFlags& flags, int32_t vocab_size) : flags_(flags), vocab_size_(vocab_size) {
    std::mt19937_64 random(flags.seed);
    double due = 0;
    for (int32_t i = 0; i < flags.requests; ++i) {
      due_.push_back(due);
      if (flags.rate > 0) due += std::exponential_distribution<double>(flags.rate)(random);
    }
  }

  // Returns the seconds from the first request to the last token.
  double Run(Tally* tally) {
    start_ = Clock::now();
    std::vector<std::thread> clients;
    clients.reserve(flags_.clients);
    for (int32_t c = 0; c < flags_.clients; ++c) clients.emplace_back([this, c, tally] { Client(c, tally); });
    for (std::thread& client : clients) client.join();
    return SecondsBetween(start_, Clock::now());
  }

 private:
  void Client(int32_t number, Tally* tally) {
    grpc::ChannelArguments arguments;
    arguments.SetInt("moed.client", number);  // channels with the same arguments would share a connection
    const auto stub = v1::InferenceService::NewStub(
        grpc::CreateCustomChannel(flags_.server, grpc::InsecureChannelCredentials(), arguments));
    for (int32_t i = next_++; i < flags_.requests; i = next_++) Call(*stub, i, tally);
  }

  void Call(v1::InferenceService::Stub& stub, int32_t number, Tally* tally) {
    const v1::GenerateRequest request = MakeRequest(number);
    // With a rate, a request is late from the moment that it was due, also where no client was free to send it.
    Clock::time_point due = Clock::now();
    if (flags_.rate > 0) {
      due = start_ + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(due_[number]));
      std::this_thread::sleep_until(due);
    }
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(10));
    const auto reader = stub.GenerateStream(&context, request);
    Timing timing;
    v1::GenerateStreamResponse response;
    while (reader->Read(&response)) {
      if (response.token_ids().empty()) continue;
      timing.last = SecondsBetween(due, Clock::now());
      if (timing.tokens == 0) timing.first = timing.last;
      timing.tokens += response.token_ids_size();
    }
    const grpc::Status status = reader->Finish();
    status.ok() ? tally->Add(timing) : tally->AddFailure(status);
  }

  v1::GenerateRequest MakeRequest(int32_t number) const {
    std::mt19937_64 random(flags_.seed * 1000003 + static_cast<uint64_t>(number));
    v1::GenerateRequest request;
    request.set_model(flags_.model);
    for (int32_t i = 0; i < flags_.prompt; ++i) {
      const auto id = random() % static_cast<uint64_t>(vocab_size_);
      request.mutable_token_ids()->add_ids(static_cast<int32_t>(id));
    }
    v1::SamplingParams& sampling = *request.mutable_sampling();
    sampling.set_max_tokens(flags_.generate);
    sampling.set_ignore_eos(true);
    sampling.set_temperature(0);
    return request;
  }

  const ServeFlags& flags_;
  const int32_t vocab_size_;
  std::vector<double> due_;  // seconds after start_
  Clock::time_point start_;
  std::atomic<int32_t> next_{0};
};

// The model that is meant; NOT_FOUND names those that there are.
absl::StatusOr<v1::Model> FindModel(const ServeFlags& flags) {
  const auto stub =
      v1::InferenceService::NewStub(grpc::CreateChannel(flags.server, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  v1::ListModelsResponse response;
  const grpc::Status status = stub->ListModels(&context, {}, &response);
  if (!status.ok()) {
    return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                        fmt::format("no answer from {}: {}", flags.server, status.error_message()));
  }
  std::string names;
  for (const v1::Model& model : response.models()) {
    if (flags.model.empty() || model.name() == flags.model) return model;
    names += (names.empty() ? "" : ", ") + model.name();
  }
  return NotFound("the server has no model \"{}\"; it has {}", flags.model, names.empty() ? "none" : names);
}

// The p-th part of the values, 0 <= p <= 1, in milliseconds.
double Quantile(std::vector<double> values, double p) {
  if (values.empty()) return 0;
  const auto place = static_cast<std::ptrdiff_t>(std::ceil(p * static_cast<double>(values.size())));
  const auto at = values.begin() + std::clamp<std::ptrdiff_t>(place - 1, 0, std::ssize(values) - 1);
  std::nth_element(values.begin(), at, values.end());
  return 1e3 * *at;
}

nlohmann::json Distribution(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return {{"mean_ms", values.empty() ? 0.0 : 1e3 * sum / static_cast<double>(values.size())},
          {"p50_ms", Quantile(values, 0.50)},
          {"p95_ms", Quantile(values, 0.95)},
          {"p99_ms", Quantile(values, 0.99)}};
}

nlohmann::json Report(const ServeFlags& flags, const std::string& model, const Tally& tally, double seconds) {
  std::vector<double> first, per_token, whole;
  int64_t tokens = 0;
  for (const Timing& timing : tally.timings) {
    tokens += timing.tokens;
    first.push_back(timing.first);
    whole.push_back(timing.last);
    if (timing.tokens > 1) per_token.push_back((timing.last - timing.first) / static_cast<double>(timing.tokens - 1));
  }
  return {{"model", model},
          {"clients", flags.clients},
          {"rate", flags.rate},
          {"prompt", flags.prompt},
          {"generate", flags.generate},
          {"completed", tally.timings.size()},
          {"failed", tally.failures},
          {"seconds", seconds},
          {"requests_per_s", static_cast<double>(tally.timings.size()) / seconds},
          {"output_tokens_per_s", static_cast<double>(tokens) / seconds},
          {"time_to_first_token", Distribution(first)},
          {"time_per_output_token", Distribution(per_token)},
          {"response_time", Distribution(whole)}};
}

void PrintReport(const nlohmann::json& report) {
  fmt::print("{}: {} requests completed in {:.1f} s: {:.2f} requests/s, {:.1f} output tokens/s\n",
             report["model"].get<std::string>(), report["completed"].get<int64_t>(), report["seconds"].get<double>(),
             report["requests_per_s"].get<double>(), report["output_tokens_per_s"].get<double>());
  fmt::print("{:<24} {:>10} {:>10} {:>10} {:>10}\n", "milliseconds", "mean", "p50", "p95", "p99");
  for (const char* const key : {"time_to_first_token", "time_per_output_token", "response_time"}) {
    const nlohmann::json& row = report[key];
    fmt::print("{:<24} {:>10.1f} {:>10.1f} {:>10.1f} {:>10.1f}\n", key, row["mean_ms"].get<double>(),
               row["p50_ms"].get<double>(), row["p95_ms"].get<double>(), row["p99_ms"].get<double>());
  }
}

absl::Status BenchServe(const ServeFlags& flags) {
  MOED_ASSIGN_OR_RETURN(const v1::Model model, FindModel(flags));
  if (flags.prompt + flags.generate > model.max_context()) {
    return InvalidArgument("prompt and generate are {} and {}; the model's context holds {}", flags.prompt,
                           flags.generate, model.max_context());
  }
  Tally tally;
  Load load(flags, model.vocab_size());
  const double seconds = load.Run(&tally);
  const nlohmann::json report = Report(flags, model.name(), tally, seconds);
  if (flags.json) {
    fmt::print("{}\n", report.dump(2));
  } else {
    PrintReport(report);
  }
  if (tally.failures.empty()) return absl::OkStatus();
  int64_t failed = 0;
  for (const auto& [message, count] : tally.failures) failed += count;
  const auto& [message, count] = *tally.failures.begin();
  return absl::UnknownError(
      fmt::format("{} of {} requests failed; {} with {}", failed, flags.requests, count, message));
}

}  // namespace

Command AddBenchServeCommand(CLI::App* bench) {
  CLI::App* command = bench->add_subcommand("serve", "What clients of a running server get, from many at once");
  command->footer(
      "Without --rate each client sends its next request when the last is answered; with it requests are due at "
      "random\n"
      "moments (a Poisson process), and times count from then. Prompts are random tokens, each of its own.\n"
      "\n"
      "Example:\n"
      "  moed bench serve --clients 32 --requests 256 --prompt 512 --generate 128");
  auto flags = std::make_shared<ServeFlags>();
  command->add_option("--server", flags->server, "HOST:PORT of the server")->capture_default_str();
  command->add_option("--model", flags->model, "Name of the model; needed where the server has several");
  command->add_option("--clients", flags->clients, "Requests at once, at most; each client has a connection of its own")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command->add_option("--requests", flags->requests, "Requests in all")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--rate", flags->rate, "Requests a second; 0: as the clients can")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--prompt", flags->prompt, "Tokens of each prompt")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--generate", flags->generate, "Tokens generated for each")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--seed", flags->seed, "Of prompts and moments")->capture_default_str();
  command->add_flag("--json", flags->json, "A JSON object instead of a table");
  return {command, [flags] { return BenchServe(*flags); }};
}

}  // namespace moed

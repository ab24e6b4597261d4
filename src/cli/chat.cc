// moed chat: a conversation with a server, in the terminal.
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <mutex>

#include "base/logging.h"
#include "cli/commands.h"
#include "cli/sampling_flags.h"
#include "cli/stop_signals.h"
#include "moed/v1/inference.grpc.pb.h"

namespace moed {
namespace {

struct ChatFlags {
  std::string server = "127.0.0.1:50051";
  std::string model;
  std::string system;
  std::string once;
  std::string template_kwargs;
  SamplingFlags sampling;
};

constexpr std::string_view kHelp =
    "/new   begin a new conversation\n"
    "/help  this list\n"
    "/quit  end; so does Ctrl-D\n"
    "Ctrl-C stops an answer.\n";

class ChatSession {
 public:
  explicit ChatSession(const ChatFlags& flags)
      : flags_(flags),
        stub_(v1::InferenceService::NewStub(grpc::CreateChannel(flags.server, grpc::InsecureChannelCredentials()))) {
    Reset();
  }

  void Reset() {
    conversation_.Clear();
    conversation_.set_template_kwargs(flags_.template_kwargs);
    if (!flags_.system.empty()) AddMessage("system", flags_.system);
  }

  // Sends what the user says, prints the answer as it comes, and keeps both. A question that fails is forgotten.
  absl::Status Say(const std::string& text) {
    AddMessage("user", text);
    v1::ChatRequest request;
    request.set_model(flags_.model);
    *request.mutable_sampling() = flags_.sampling.ToMessage();
    *request.mutable_conversation() = conversation_;

    grpc::ClientContext context;
    SetCall(&context);
    auto reader = stub_->ChatStream(&context, request);
    std::string answer;
    v1::ChatStreamResponse response;
    while (reader->Read(&response)) {
      answer += response.content_delta();
      std::fwrite(response.content_delta().data(), 1, response.content_delta().size(), stdout);
      std::fflush(stdout);
    }
    SetCall(nullptr);
    const grpc::Status status = reader->Finish();
    std::fputc('\n', stdout);
    const bool stopped_by_user = status.error_code() == grpc::StatusCode::CANCELLED;
    if (!status.ok() && !stopped_by_user) {
      conversation_.mutable_messages()->RemoveLast();
      return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
    }
    AddMessage("assistant", answer);
    if (response.has_usage() && isatty(STDERR_FILENO) == 1) PrintUsage(response);
    return absl::OkStatus();
  }

  // From another thread: stops the answer that is coming; false when there is none.
  bool StopAnswer() {
    std::lock_guard lock(mutex_);
    if (call_ == nullptr) return false;
    call_->TryCancel();
    return true;
  }

 private:
  void AddMessage(std::string_view role, const std::string& content) {
    v1::ChatMessage* message = conversation_.add_messages();
    message->set_role(std::string(role));
    message->set_content(content);
  }

  void SetCall(grpc::ClientContext* call) {
    std::lock_guard lock(mutex_);
    call_ = call;
  }

  static void PrintUsage(const v1::ChatStreamResponse& last) {
    const double decode_ms = last.timings().total_ms() - last.timings().time_to_first_token_ms();
    const double rate = decode_ms > 0 ? (last.usage().completion_tokens() - 1) * 1000 / decode_ms : 0;
    fmt::print(stderr, "[{} prompt tokens ({} cached), {} generated, first after {:.0f} ms, {:.1f} tokens/s]\n",
               last.usage().prompt_tokens(), last.usage().cached_tokens(), last.usage().completion_tokens(),
               last.timings().time_to_first_token_ms(), rate);
  }

  const ChatFlags& flags_;
  const std::unique_ptr<v1::InferenceService::Stub> stub_;
  v1::Conversation conversation_;

  std::mutex mutex_;
  grpc::ClientContext* call_ = nullptr;  // under way
};

absl::Status Converse(ChatSession* session) {
  const bool interactive = isatty(STDIN_FILENO) == 1;
  if (interactive) fmt::print("/help lists what else there is.\n");
  std::string line;
  while (true) {
    if (interactive) fmt::print("\n> ");
    std::fflush(stdout);
    if (!std::getline(std::cin, line) || line == "/quit") return absl::OkStatus();
    if (line.empty()) continue;
    if (line == "/help") {
      fmt::print("{}", kHelp);
    } else if (line == "/new") {
      session->Reset();
    } else if (absl::Status status = session->Say(line); !status.ok()) {
      if (!interactive) return status;
      fmt::print(stderr, "moed: {}\n", Message(status));
    }
  }
}

absl::Status Chat(const ChatFlags& flags) {
  // The signals' thread uses the session until it is gone.
  std::atomic<ChatSession*> current = nullptr;
  const StopSignals signals([&current](int) {
    ChatSession* session = current.load();
    if (session != nullptr && session->StopAnswer()) return;
    std::fputc('\n', stdout);
    std::_Exit(0);  // waiting for a line
  });
  ChatSession session(flags);
  current = &session;
  absl::Status status = flags.once.empty() ? Converse(&session) : session.Say(flags.once);
  current = nullptr;
  return status;
}

}  // namespace

Command AddChatCommand(CLI::App* app) {
  CLI::App* command = app->add_subcommand("chat", "Talk to a server");
  command->footer(
      "Example:\n"
      "  moed chat --server 127.0.0.1:50051 --system \"Answer briefly.\"\n"
      "  moed chat --once \"What is a mixture of experts?\"");
  auto flags = std::make_shared<ChatFlags>();
  command->add_option("--server", flags->server, "Where the server listens")
      ->type_name("HOST:PORT")
      ->capture_default_str();
  command->add_option("--model", flags->model, "Its name; not needed where the server has one only")->type_name("NAME");
  command->add_option("--system", flags->system, "What the model is told first")->type_name("TEXT");
  command->add_option("--once", flags->once, "Ask this, print the answer, and end")->type_name("TEXT");
  command
      ->add_option("--template-kwargs", flags->template_kwargs,
                   "For the chat template, like {\"enable_thinking\": false}")
      ->type_name("JSON");
  flags->sampling.AddTo(command);
  flags->sampling.AddSeedTo(command);
  return {command, [flags] { return Chat(*flags); }};
}

}  // namespace moed

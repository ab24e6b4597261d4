// moed serve: the server.
#include <absl/time/clock.h>

#include <CLI/CLI.hpp>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>

#include "base/logging.h"
#include "cli/commands.h"
#include "cli/model_loader.h"
#include "cli/protobuf_log.h"
#include "cli/server_config.h"
#include "cli/stop_signals.h"
#include "service/authenticator.h"
#include "service/server.h"
#include "serving/model_registry.h"

namespace moed {
namespace {

// Clients get their last messages in this time once all requests have ended.
constexpr absl::Duration kTimeToHangUp = absl::Seconds(2);

struct ServeFlags {
  ServerConfig config;
  OptionTable table;
  std::string config_file;
  bool print_config = false;
};

// From the first stop signal until the end.
class StopRequest {
 public:
  // Where a signal finds the loop: null while the model loads.
  void SetModel(std::shared_ptr<const ServedModel> model) {
    std::lock_guard lock(mutex_);
    model_ = std::move(model);
  }

  // 1: drain; 2: end what runs; while loading: end the program, for nothing is held that the system does not take back.
  void OnSignal(int count) {
    std::unique_lock lock(mutex_);
    if (model_ == nullptr) {
      MOED_LOG_INFO("stopped while loading");
      std::_Exit(0);
    }
    stop_ = true;
    stopped_.notify_all();
    const std::shared_ptr<const ServedModel> model = model_;
    lock.unlock();
    if (count > 1) model->loop().Drain(absl::InfinitePast());
  }

  void Wait() {
    std::unique_lock lock(mutex_);
    stopped_.wait(lock, [this] { return stop_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable stopped_;
  std::shared_ptr<const ServedModel> model_;
  bool stop_ = false;
};

absl::Status Configure(ServeFlags* flags) {
  if (!flags->config_file.empty()) MOED_RETURN_IF_ERROR(flags->table.ApplyYamlFile(flags->config_file));
  MOED_RETURN_IF_ERROR(flags->table.ApplyFlags());
  return flags->config.StartLogging();
}

absl::Status Serve(ServeFlags* flags) {
  MOED_RETURN_IF_ERROR(Configure(flags));
  if (flags->print_config) {
    fmt::print("{}", flags->table.PrintYaml());
    return absl::OkStatus();
  }
  ServerConfig& config = flags->config;
  MOED_RETURN_IF_ERROR(config.Resolve());
  RouteProtobufLog();

  StopRequest stop;
  const StopSignals signals([&stop](int count) { stop.OnSignal(count); });
  ModelRegistry models;
  models.SetLoading(config.engine.served_model_name);
  const OpenAuthenticator authenticator;
  // Listening comes first: an address in use shows at once, and health checks see a server that is not ready yet.
  MOED_ASSIGN_OR_RETURN(const auto server, Server::Start(config.server, models, authenticator));
  MOED_ASSIGN_OR_RETURN(const std::shared_ptr<const ServedModel> model, LoadServedModel(config));
  models.SetReady(model);
  stop.SetModel(model);
  server->SetReady(true);
  MOED_LOG_INFO("serving model \"{}\", listening on {}", model->name(), server->address());

  stop.Wait();
  MOED_LOG_INFO("draining: {} requests may take up to {}; another signal ends them at once",
                model->loop().stats().open_requests, absl::FormatDuration(config.drain_timeout));
  server->SetReady(false);
  models.SetDraining(model->name());
  const int32_t cut_off = model->loop().Drain(absl::Now() + config.drain_timeout);
  server->Shutdown(absl::Now() + kTimeToHangUp);
  MOED_LOG_INFO("stopped; {} requests were cut off", cut_off);
  return absl::OkStatus();
}

}  // namespace

Command AddServeCommand(CLI::App* app) {
  CLI::App* command = app->add_subcommand("serve", "Serve a model over gRPC");
  command->footer(
      "Every option is also a key of the YAML file, with _ for -; a flag overrides the file.\n"
      "\n"
      "Example:\n"
      "  moed serve --model models/demo --port 50051\n"
      "  moed serve --config configs/demo.yaml --max-num-seqs 16");
  auto flags = std::make_shared<ServeFlags>();
  command->add_option("--config", flags->config_file, "YAML file with options")->type_name("FILE");
  command->add_flag("--print-config", flags->print_config, "Print all options as they are now, as YAML, and end");
  flags->config.AddModelOptions(&flags->table);
  flags->config.AddServingOptions(&flags->table);
  flags->config.AddServerOptions(&flags->table);
  flags->table.AddFlags(command);
  return {command, [flags] { return Serve(flags.get()); }};
}

}  // namespace moed

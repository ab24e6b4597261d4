// Everything that can be configured, in one place; each part lives with what it configures.
#ifndef MOED_CLI_SERVER_CONFIG_H_
#define MOED_CLI_SERVER_CONFIG_H_

#include <absl/time/time.h>

#include <string>

#include "base/status.h"
#include "cli/generation_config.h"
#include "cli/option_table.h"
#include "engine/moe_engine.h"
#include "service/server.h"
#include "serving/serving_loop.h"

namespace moed {

struct ServerConfig {
  MoeEngineOptions engine;
  ServingOptions serving;
  ServerOptions server;
  // The folder with tokenizer and chat template; empty: the model's. (--tokenizer)
  std::string tokenizer_dir;
  // Sampling of requests that say nothing about it. (--generation-config)
  GenerationConfigSource generation_config = GenerationConfigSource::kModel;
  // auto: integers and rounded activations where the checkpoint has them; none: all as floats; int8, or int4
  // (feed-forwards in int4, attention, LM head and embedding in int8), made as weights are loaded, with a group size as
  // in int4:32.
  // (--quantization)
  std::string quantization = "auto";
  // A file of rules that go before `quantization`; empty: none. (--weight-policy)
  std::string weight_policy_file;
  // (--scheduling-policy)
  std::string scheduling_policy = "fcfs";
  // Seeds the draws of requests that name no seed, and dummy weights; nothing: another one at each start. (--seed)
  std::optional<uint64_t> seed;
  // After SIGTERM, how long requests that run may take to end; load balancers commonly wait as long. (--drain-timeout)
  absl::Duration drain_timeout = absl::Seconds(30);
  // (--log-level)
  std::string log_level = "info";

  // Rows for what loads a model; for how requests are scheduled; for the server around them. A command takes those that
  // mean something to it.
  void AddModelOptions(OptionTable* table);
  void AddServingOptions(OptionTable* table);
  void AddServerOptions(OptionTable* table);

  // Carries what stands in one option to every part that needs it, and fills the model's name. INVALID_ARGUMENT when no
  // model is named, or drain_timeout is negative.
  absl::Status Resolve();

  // Begins to log at log_level. INVALID_ARGUMENT for a level that is none.
  absl::Status StartLogging() const;
};

}  // namespace moed

#endif  // MOED_CLI_SERVER_CONFIG_H_

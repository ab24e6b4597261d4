#include "cli/model_loader.h"

#include <absl/time/clock.h>

#include <utility>

#include "base/logging.h"
#include "checkpoint/checkpoint.h"
#include "cli/generation_config.h"
#include "cli/model_path.h"
#include "cli/model_text.h"
#include "cli/progress_bar.h"
#include "engine/moe_engine.h"
#include "scheduler/policy.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/tokenizer.h"

namespace moed {

std::shared_ptr<const ChatTemplate> LoadChatTemplateIfAny(const std::string& dir) {
  auto chat_template = LoadChatTemplate(dir);
  if (chat_template.ok()) return std::move(chat_template).value();
  if (!absl::IsNotFound(chat_template.status())) {
    MOED_LOG_WARNING("the chat template is not understood, so Chat is not available: {}",
                     Message(chat_template.status()));
  }
  return nullptr;
}

absl::StatusOr<std::shared_ptr<const ServedModel>> LoadServedModel(const ServerConfig& config) {
  const absl::Time start = absl::Now();
  // What is quick to fail comes before what is slow to load.
  MOED_ASSIGN_OR_RETURN(auto policy, MakePolicy(config.scheduling_policy));
  MOED_ASSIGN_OR_RETURN(const std::string model_path, ResolveModelPath(config.engine.model_dir));
  MOED_RETURN_IF_ERROR(CheckModelPath(model_path));
  SamplingParams sampling;
  if (config.generation_config == GenerationConfigSource::kModel) {
    MOED_ASSIGN_OR_RETURN(sampling, ReadGenerationConfig(model_path));
  }
  MOED_ASSIGN_OR_RETURN(const std::string tokenizer_path, ResolveModelPath(config.tokenizer_dir));
  MOED_ASSIGN_OR_RETURN(std::shared_ptr<const Tokenizer> tokenizer, LoadTokenizer(tokenizer_path));

  std::unique_ptr<MoeEngine> engine;
  {
    ProgressBar bar;
    MoeEngineOptions options = config.engine;
    options.model_dir = model_path;
    options.progress = [&bar](double fraction, std::string_view what) { bar.Update(fraction, what); };
    MOED_ASSIGN_OR_RETURN(engine, MoeEngine::Load(options));
  }
  if (tokenizer->vocab_size() > engine->info().vocab_size) {
    MOED_LOG_WARNING("the tokenizer has {} tokens, the model only {}; prompts with the others are refused",
                     tokenizer->vocab_size(), engine->info().vocab_size);
  }
  MOED_LOG_INFO(
      "loaded {} in {:.1f} s: {}, {} threads, weights {:.2f} GiB, KV cache {:.2f} GiB in {} blocks, context {}",
      config.engine.model_dir, absl::ToDoubleSeconds(absl::Now() - start), DTypeName(engine->dtype()),
      engine->num_threads(), static_cast<double>(engine->memory_plan().weights) / (1 << 30),
      static_cast<double>(engine->memory_plan().kv_cache) / (1 << 30), engine->memory_plan().kv_blocks,
      engine->info().max_context);
  if (engine->memory_plan().kv_host > 0) {
    MOED_LOG_INFO("host tier of the KV cache: {:.2f} GiB in {} blocks",
                  static_cast<double>(engine->memory_plan().kv_host) / (1 << 30), engine->memory_plan().kv_host_blocks);
  }
  MOED_ASSIGN_OR_RETURN(auto loop,
                        ServingLoop::Create(config.serving, std::move(engine), std::move(policy), tokenizer));
  return std::make_shared<const ServedModel>(config.engine.served_model_name, std::move(tokenizer),
                                             LoadChatTemplateIfAny(tokenizer_path), std::move(loop),
                                             std::move(sampling));
}

}  // namespace moed

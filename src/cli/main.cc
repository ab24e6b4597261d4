// moed: one program for serving a mixture-of-experts model and for looking at it.
#include <CLI/CLI.hpp>
#include <array>
#include <cstdio>

#include "cli/commands.h"

int main(int argc, char** argv) {
  CLI::App app{
      "moed serves mixture-of-experts language models over gRPC.\n"
      "\n"
      "  moed serve --model models/demo               start a server on 127.0.0.1:50051\n"
      "  moed chat                                    talk to it\n"
      "  moed generate --model models/demo --prompt \"Once upon a time\"\n"
      "\n"
      "`moed COMMAND --help` explains a command."};
  app.name("moed")->set_version_flag("--version", MOED_VERSION);
  app.require_subcommand(1);
  app.get_formatter()->column_width(40);
  CLI::App* const bench = app.add_subcommand("bench", "How fast a model runs here");
  bench->require_subcommand(1);
  const std::array commands = {
      moed::AddServeCommand(&app),       moed::AddGenerateCommand(&app),      moed::AddChatCommand(&app),
      moed::AddTokenizeCommand(&app),    moed::AddLogitsCommand(&app),        moed::AddInspectCommand(&app),
      moed::AddPerplexityCommand(&app),  moed::AddDevicesCommand(&app),       moed::AddQuantizeCommand(&app),
      moed::AddBenchBatchCommand(bench), moed::AddBenchKernelsCommand(bench), moed::AddBenchServeCommand(bench),
  };
  CLI11_PARSE(app, argc, argv);
  for (const moed::Command& command : commands) {
    if (!command.app->parsed()) continue;
    const absl::Status status = command.body();
    if (status.ok()) return 0;
    std::fprintf(stderr, "moed: %s\n", std::string(moed::Message(status)).c_str());
    return 1;
  }
  return 0;
}

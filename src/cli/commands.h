// The subcommands of `moed`, one file each.
#ifndef MOED_CLI_COMMANDS_H_
#define MOED_CLI_COMMANDS_H_

#include <functional>

#include "base/status.h"

namespace CLI {
class App;
}  // namespace CLI

namespace moed {

// What a command does once its flags are parsed; an error is printed and ends the program with code 1.
using CommandBody = std::function<absl::Status()>;

// Each adds its subcommand with its flags to `app`, and returns what it does; main() runs the one that was named.
struct Command {
  CLI::App* app = nullptr;
  CommandBody body;
};
Command AddServeCommand(CLI::App* app);
Command AddGenerateCommand(CLI::App* app);
Command AddChatCommand(CLI::App* app);
Command AddTokenizeCommand(CLI::App* app);
Command AddDevicesCommand(CLI::App* app);
Command AddLogitsCommand(CLI::App* app);
Command AddInspectCommand(CLI::App* app);
Command AddPerplexityCommand(CLI::App* app);
Command AddQuantizeCommand(CLI::App* app);
// Below `moed bench`.
Command AddBenchBatchCommand(CLI::App* bench);
Command AddBenchKernelsCommand(CLI::App* bench);
Command AddBenchServeCommand(CLI::App* bench);

}  // namespace moed

#endif  // MOED_CLI_COMMANDS_H_

// Where messages of the protobuf library go.
#ifndef MOED_CLI_PROTOBUF_LOG_H_
#define MOED_CLI_PROTOBUF_LOG_H_

namespace moed {

// Into our log, as debug: protobuf would write a line to stderr for each malformed request, and any client could fill
// the disk.
void RouteProtobufLog();

}  // namespace moed

#endif  // MOED_CLI_PROTOBUF_LOG_H_

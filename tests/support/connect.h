// A client's connection to a server under test.
#ifndef MOED_TESTS_SUPPORT_CONNECT_H_
#define MOED_TESTS_SUPPORT_CONNECT_H_

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <memory>
#include <string>

#include "base/logging.h"

namespace moed::testing {

// A connection of its own, made before this returns: calls over it fail as soon as anything is wrong with it.
//
// Debian 12's gRPC client reads errno of connect() only after it has allocated memory (tcp_client_posix.cc). Where a
// new thread's first allocation asks the system for its processors and finds no /sys, as in many a sandbox, EINPROGRESS
// has become ENOENT by then, and the first call fails with "No such file or directory" although the server accepts
// connections. Another attempt follows, which is waited for here.
inline std::shared_ptr<grpc::Channel> Connect(const std::string& address, grpc::ChannelArguments arguments = {}) {
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // channels with the same arguments would share one
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  auto channel = grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
  MOED_CHECK(channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(60)),
             "no connection to {}", address);
  return channel;
}

}  // namespace moed::testing

#endif  // MOED_TESTS_SUPPORT_CONNECT_H_

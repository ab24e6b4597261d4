#include "serving/notifier.h"

#include <iterator>
#include <utility>

namespace moed {

Notifier::Notifier() : thread_([this] { Run(); }) {}

Notifier::~Notifier() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  news_.notify_one();
  thread_.join();
}

void Notifier::Post(std::vector<Task>* tasks) {
  if (tasks->empty()) return;
  {
    std::lock_guard lock(mutex_);
    tasks_.insert(tasks_.end(), std::make_move_iterator(tasks->begin()), std::make_move_iterator(tasks->end()));
  }
  tasks->clear();
  news_.notify_one();
}

void Notifier::Run() {
  std::unique_lock lock(mutex_);
  while (true) {
    news_.wait(lock, [this] { return stop_ || !tasks_.empty(); });
    if (tasks_.empty()) return;
    std::vector<Task> tasks = std::exchange(tasks_, {});
    lock.unlock();
    for (Task& task : tasks) task();
    tasks.clear();  // what the tasks hold is let go before the lock is taken again
    lock.lock();
  }
}

}  // namespace moed

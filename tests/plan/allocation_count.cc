// The binary's own malloc, which glibc calls too, in front of glibc's; under AddressSanitizer, which brings its own,
// a hook.
#include "tests/plan/allocation_count.h"

#include <atomic>
#include <cerrno>
#include <cstddef>

namespace fpsa::testing_support {
namespace {

std::atomic<int64_t> allocations{0};

}  // namespace

int64_t allocation_count() {
  return allocations.load();
}

}  // namespace fpsa::testing_support

#if defined(__SANITIZE_ADDRESS__)

extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void*, size_t),
                                                         void (*on_free)(const volatile void*));

namespace {
[[maybe_unused]] const int installed = __sanitizer_install_malloc_and_free_hooks(
    [](const volatile void*, size_t) { ++fpsa::testing_support::allocations; }, [](const volatile void*) {});
}  // namespace

#else

extern "C" {
void* __libc_malloc(size_t bytes);
void* __libc_calloc(size_t count, size_t bytes);
void* __libc_realloc(void* memory, size_t bytes);
void* __libc_memalign(size_t alignment, size_t bytes);

void* malloc(size_t bytes) {
  ++fpsa::testing_support::allocations;
  return __libc_malloc(bytes);
}
void* calloc(size_t count, size_t bytes) {
  ++fpsa::testing_support::allocations;
  return __libc_calloc(count, bytes);
}
void* realloc(void* memory, size_t bytes) {
  ++fpsa::testing_support::allocations;
  return __libc_realloc(memory, bytes);
}
void* memalign(size_t alignment, size_t bytes) {
  ++fpsa::testing_support::allocations;
  return __libc_memalign(alignment, bytes);
}
void* aligned_alloc(size_t alignment, size_t bytes) {
  ++fpsa::testing_support::allocations;
  return __libc_memalign(alignment, bytes);
}
int posix_memalign(void** memory, size_t alignment, size_t bytes) {
  ++fpsa::testing_support::allocations;
  *memory = __libc_memalign(alignment, bytes);
  return *memory != nullptr ? 0 : ENOMEM;
}
}

#endif

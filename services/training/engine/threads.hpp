// Work for several threads: those of torch's OpenMP, which library.py passes.

#pragma once

#include <atomic>
#include <cstdint>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace {

using Index = std::int64_t;

void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;  // GOMP_parallel

// Calls work(number) for each number below `count`, by so many threads, or fewer if OpenMP gives fewer.
template <typename Work>
void in_threads(Index count, Index threads, const Work& work) {
    if (threads <= 1 || parallel == nullptr) {
        for (Index number = 0; number < count; number++) work(number);
        return;
    }
    struct Team {
        const Work* work;
        Index count;
        std::atomic<Index> next;
        unsigned flush;
    } team{&work, count, {0}, 0};
#if defined(__SSE__)
    team.flush = _mm_getcsr();  // whether denormal numbers are flushed to zero, which is set by thread
#endif
    parallel(
        [](void* given) {
            Team& team = *static_cast<Team*>(given);
#if defined(__SSE__)
            const unsigned mode = _mm_getcsr();
            _mm_setcsr(team.flush);
#endif
            for (Index number; (number = team.next++) < team.count;) (*team.work)(number);
#if defined(__SSE__)
            _mm_setcsr(mode);
#endif
        },
        &team, unsigned(threads), 0);
}

}  // namespace

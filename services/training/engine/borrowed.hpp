// What the library borrows from torch: the matrix product of its BLAS, and the threads of its OpenMP.

#pragma once

#include <atomic>
#include <cstdint>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace {

using Index = std::int64_t;

using Sgemm = void (*)(const char*, const char*, const int*, const int*, const int*, const float*, const float*,
                       const int*, const float*, const int*, const float*, float*, const int*);
Sgemm sgemm = nullptr;
void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;  // GOMP_parallel
int (*blas_threads)(int) = nullptr;  // MKL_Set_Num_Threads_Local; other libraries see that they are in a team

// C (m, n) = A (m, k) B (k, n) + beta C, all of them row by row; A or B may be given transposed.
void product(bool transpose_a, bool transpose_b, Index m, Index n, Index k, const float* a, Index lda, const float* b,
             Index ldb, float beta, float* c, Index ldc) {
    if (m == 0 || n == 0) return;
    const float one = 1.0f;
    const int rows = int(m), columns = int(n), inner = int(k), la = int(lda), lb = int(ldb), lc = int(ldc);
    sgemm(transpose_b ? "T" : "N", transpose_a ? "T" : "N", &columns, &rows, &inner, &one, b, &lb, a, &la, &beta, c, &lc);
}

// Calls work(number) for each number below `count`, by so many threads, or fewer if OpenMP gives fewer.
template <typename Work>
void in_threads(Index count, Index threads, const Work& work) {
    if (threads <= 1 || parallel == nullptr) {
        const int before = blas_threads ? blas_threads(1) : 0;
        for (Index number = 0; number < count; number++) work(number);
        if (blas_threads) blas_threads(before);
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
            const int before = blas_threads ? blas_threads(1) : 0;
#if defined(__SSE__)
            const unsigned mode = _mm_getcsr();
            _mm_setcsr(team.flush);
#endif
            for (Index number; (number = team.next++) < team.count;) (*team.work)(number);
#if defined(__SSE__)
            _mm_setcsr(mode);
#endif
            if (blas_threads) blas_threads(before);
        },
        &team, unsigned(threads), 0);
}

}  // namespace

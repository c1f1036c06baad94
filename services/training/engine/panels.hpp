// The product of rows with a matrix of weights that is laid out once and used at every step.
//
// A BLAS lays out its second matrix anew in each call, which takes as long as the product itself if there are few rows.
// Here the matrix (inner, columns) is cut into panels of two vector registers in width, each of which lies in memory row
// after row. A tile of the result stays in registers while a panel is read once. Each number is added up in the same
// order whatever the number of rows is.

#pragma once

#include <algorithm>
#include <cstring>

#include "threads.hpp"

namespace {

#if defined(__AVX512F__)
constexpr Index LANES = 16, TILE = 12;  // numbers of a register, and rows of a tile: two registers each
#elif defined(__AVX2__)
constexpr Index LANES = 8, TILE = 6;
#elif defined(__aarch64__)
constexpr Index LANES = 4, TILE = 8;
#else
constexpr Index LANES = 4, TILE = 6;
#endif
typedef float Vector __attribute__((vector_size(LANES * sizeof(float))));

inline Vector load(const float* from) {
    Vector found;
    std::memcpy(&found, from, sizeof found);
    return found;
}

inline void store(const Vector& vector, float* to) { std::memcpy(to, &vector, sizeof vector); }

// How many registers wide the panel is that begins at a column.
inline Index registers(Index columns, Index begin) { return columns - begin > LANES ? 2 : 1; }

Index size_of_panels(Index inner, Index columns) { return (columns + LANES - 1) / LANES * LANES * inner; }

// What a product begins with: zeros, a bias of each column, or the result so far.
enum Start { ZEROS, BIAS, RESULT };

// Lays out a matrix (inner, columns) whose rows are `ld` apart, or (columns, inner) if it is given transposed. With
// `bias` (columns,) that is the first row of each panel.
void lay_out(bool transposed, const float* from, Index ld, Index inner, Index columns, float* to,
             const float* bias = nullptr) {
    const Index along = transposed ? 1 : ld, across = transposed ? ld : 1;
    for (Index begin = 0; begin < columns;) {
        const Index width = registers(columns, begin) * LANES, some = std::min(width, columns - begin);
        if (bias != nullptr) {
            for (Index j = 0; j < width; j++) to[j] = j < some ? bias[begin + j] : 0.0f;
            to += width;
        }
        if (!transposed && some == width)
            for (Index k = 0; k < inner; k++) std::memcpy(to + k * width, from + k * ld + begin, sizeof(float) * width);
        else
            for (Index j = 0; j < width; j++)
                for (Index k = 0; k < inner; k++)
                    to[k * width + j] = j < some ? from[(begin + j) * across + k * along] : 0.0f;
        to += inner * width;
        begin += width;
    }
}

// A tile of C (ROWS, some columns of a panel) = A (ROWS, inner) panel. A may be given as (inner, ROWS).
template <bool TRANSPOSED, Index ROWS, Index REGISTERS>
void tile(Index inner, const float* a, Index lda, const float* panel, Start start, float* c, Index ldc, Index some) {
    Vector sums[ROWS][REGISTERS] = {};
    if (start == BIAS) {
        for (Index row = 0; row < ROWS; row++)
            for (Index r = 0; r < REGISTERS; r++) sums[row][r] = load(panel + r * LANES);
        panel += REGISTERS * LANES;
    }
    for (Index k = 0; k < inner; k++, panel += REGISTERS * LANES) {
        Vector weights[REGISTERS];
        for (Index r = 0; r < REGISTERS; r++) weights[r] = load(panel + r * LANES);
        for (Index row = 0; row < ROWS; row++)
            for (Index r = 0; r < REGISTERS; r++) sums[row][r] += a[TRANSPOSED ? k * lda + row : row * lda + k] * weights[r];
    }
    for (Index row = 0; row < ROWS; row++) {
        float found[REGISTERS * LANES];
        float* to = c + row * ldc;
        if (some == REGISTERS * LANES) {
            for (Index r = 0; r < REGISTERS; r++)
                store(start == RESULT ? load(to + r * LANES) + sums[row][r] : sums[row][r], to + r * LANES);
            continue;
        }
        for (Index r = 0; r < REGISTERS; r++) store(sums[row][r], found + r * LANES);
        for (Index j = 0; j < some; j++) to[j] = start == RESULT ? to[j] + found[j] : found[j];
    }
}

// The same for the last rows, which are fewer than TILE.
template <bool TRANSPOSED, Index ROWS, Index REGISTERS>
void last_tile(Index rows, Index inner, const float* a, Index lda, const float* panel, Start start, float* c, Index ldc,
               Index some) {
    if (rows == ROWS)
        tile<TRANSPOSED, ROWS, REGISTERS>(inner, a, lda, panel, start, c, ldc, some);
    else if constexpr (ROWS > 1)
        last_tile<TRANSPOSED, ROWS - 1, REGISTERS>(rows, inner, a, lda, panel, start, c, ldc, some);
}

template <bool TRANSPOSED, Index REGISTERS>
void multiply_panel(Index rows, Index inner, const float* a, Index lda, const float* panel, Start start, float* c,
                    Index ldc, Index some) {
    const Index apart = TRANSPOSED ? 1 : lda;
    Index row = 0;
    for (; row + TILE <= rows; row += TILE)
        tile<TRANSPOSED, TILE, REGISTERS>(inner, a + row * apart, lda, panel, start, c + row * ldc, ldc, some);
    if (row < rows)
        last_tile<TRANSPOSED, TILE - 1, REGISTERS>(rows - row, inner, a + row * apart, lda, panel, start, c + row * ldc, ldc, some);
}

// C (rows, columns) = A (rows, inner) times the matrix (inner, columns) of these panels.
template <bool TRANSPOSED = false>
void multiply(Index rows, Index columns, Index inner, const float* a, Index lda, const float* panels, Start start,
              float* c, Index ldc) {
    for (Index begin = 0; begin < columns;) {
        const Index width = registers(columns, begin) * LANES, some = std::min(width, columns - begin);
        if (width > LANES)
            multiply_panel<TRANSPOSED, 2>(rows, inner, a, lda, panels, start, c + begin, ldc, some);
        else
            multiply_panel<TRANSPOSED, 1>(rows, inner, a, lda, panels, start, c + begin, ldc, some);
        panels += (inner + (start == BIAS)) * width;
        begin += width;
    }
}

constexpr Index BLOCK = 256;  // rows that are laid out at a time, so that a panel of them stays in the cache

// C (rows, columns) = A (inner, rows) transposed times B (inner, columns). A block of B at a time is laid out in `room`,
// of size_of_panels(BLOCK, columns).
void multiply_transposed(Index rows, Index columns, Index inner, const float* a, Index lda, const float* b, Index ldb,
                         float* room, float* c, Index ldc) {
    for (Index begin = 0; begin < inner; begin += BLOCK) {
        const Index some = std::min(BLOCK, inner - begin);
        lay_out(false, b + begin * ldb, ldb, some, columns, room);
        multiply<true>(rows, columns, some, a + begin * lda, lda, room, begin > 0 ? RESULT : ZEROS, c, ldc);
    }
}

}  // namespace

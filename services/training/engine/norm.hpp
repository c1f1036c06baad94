// Batch normalisation in training: of each column over the rows of a batch, which lie in several pieces.

#pragma once

#include <cmath>
#include <vector>

#include "threads.hpp"

namespace {

struct Norm {  // as library.py fills it in
    const float *weight, *bias;   // (width,)
    float *d_weight, *d_bias;     // their gradients
    float *mean, *variance;       // (width,): the running ones, which evaluation uses
    Index* batches;               // how many batches they have seen
    double momentum, eps;
};

struct Statistics {  // of a batch
    float *mean, *scale;  // (width,): scale is 1 / sqrt(variance + eps)
};

struct Piece {  // rows of one shard
    float* values;
    Index rows, ld;  // ld: numbers from one row to the next
};

// Calls add(number of the piece, row) for each row of all pieces.
template <typename Add>
void over_rows(const std::vector<Piece>& pieces, const Add& add) {
    for (Index number = 0; number < Index(pieces.size()); number++)
        for (Index row = 0; row < pieces[number].rows; row++) add(number, row);
}

// The statistics of the columns [from, to), and what becomes of the running ones.
void compute_statistics(const Norm& n, const Statistics& found, const std::vector<Piece>& pieces, Index from,
                        Index to) {
    std::vector<double> mean(to - from, 0.0), spread(to - from, 0.0);
    Index rows = 0;
    for (const Piece& piece : pieces) rows += piece.rows;
    over_rows(pieces, [&](Index number, Index row) {
        const float* x = pieces[number].values + row * pieces[number].ld + from;
        for (Index j = 0; j < to - from; j++) mean[j] += double(x[j]);
    });
    for (double& each : mean) each /= double(rows);
    over_rows(pieces, [&](Index number, Index row) {
        const float* x = pieces[number].values + row * pieces[number].ld + from;
        for (Index j = 0; j < to - from; j++) spread[j] += (double(x[j]) - mean[j]) * (double(x[j]) - mean[j]);
    });
    const double kept = 1.0 - n.momentum;
    for (Index j = from; j < to; j++) {
        const double sum = spread[j - from], variance = sum / double(rows);
        found.mean[j] = float(mean[j - from]);
        found.scale[j] = float(1.0 / std::sqrt(variance + n.eps));
        n.mean[j] = float(kept * double(n.mean[j]) + n.momentum * mean[j - from]);
        n.variance[j] = float(kept * double(n.variance[j]) + n.momentum * sum / double(rows - 1));
    }
}

// The rows of a piece in place. `normal` (rows, width) keeps them as they are before weight and bias.
void normalise(const Norm& n, const Statistics& s, const Piece& piece, Index width, float* normal) {
    for (Index row = 0; row < piece.rows; row++) {
        float *x = piece.values + row * piece.ld, *to = normal + row * width;
#pragma omp simd
        for (Index j = 0; j < width; j++) {
            to[j] = (x[j] - s.mean[j]) * s.scale[j];
            x[j] = to[j] * n.weight[j] + n.bias[j];
        }
    }
}

// The gradients of weight and bias of the columns [from, to), from those of the rows.
void compute_gradients(const Norm& n, const std::vector<Piece>& gradients, const std::vector<const float*>& normal,
                       Index width, Index from, Index to) {
    std::vector<double> of_weight(to - from, 0.0), of_bias(to - from, 0.0);
    over_rows(gradients, [&](Index number, Index row) {
        const float *d = gradients[number].values + row * gradients[number].ld + from;
        const float* x = normal[number] + row * width + from;
        for (Index j = 0; j < to - from; j++) {
            of_weight[j] += double(d[j]) * double(x[j]);
            of_bias[j] += double(d[j]);
        }
    });
    for (Index j = from; j < to; j++) n.d_weight[j] = float(of_weight[j - from]), n.d_bias[j] = float(of_bias[j - from]);
}

// The gradient of a piece of all `rows`, in place of that of what was made of it.
void normalise_back(const Norm& n, const Statistics& s, const Piece& piece, Index width, const float* normal,
                    Index rows) {
    const float share = 1.0f / float(rows);
    for (Index row = 0; row < piece.rows; row++) {
        float* d = piece.values + row * piece.ld;
        const float* x = normal + row * width;
#pragma omp simd
        for (Index j = 0; j < width; j++)
            d[j] = n.weight[j] * s.scale[j] * (d[j] - share * (n.d_bias[j] + x[j] * n.d_weight[j]));
    }
}

}  // namespace

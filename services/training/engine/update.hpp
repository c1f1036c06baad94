// The update of the weights from their gradient: clipping and the optimizers.

#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>

#include "threads.hpp"

namespace {

constexpr Index WORTH_A_THREAD = 200000;  // weights, whose update takes longer than waking a thread

enum Optimizer { ADAM = 0, ADAMW = 1, SGD = 2, RMSPROP = 3 };

struct Update {  // as library.py fills it in
    Index optimizer, parts, threads;
    const Index* sizes;               // of each part
    float* const* weights;
    float* const* gradients;          // they are clipped in place
    float* const* first;              // Adam: exp_avg. SGD and RMSprop: momentum_buffer, or null
    float* const* second;             // Adam: exp_avg_sq. RMSprop: square_avg
    float* const* steps;              // the number of updates, of each part; or null
    double lr, beta1, beta2, eps, weight_decay, momentum;
    Index nesterov;
    double max_value, max_norm;       // bounds of the gradient, or 0 for none
    double norm;                      // what comes out: the gradient's norm before clipping,
    Index clipped;                    // and whether it was clipped
};

double norm_of(const Update& u) {
    double sum = 0.0;
    for (Index part = 0; part < u.parts; part++)
        for (Index begin = 0; begin < u.sizes[part]; begin += 4096) {
            const Index end = std::min(u.sizes[part], begin + 4096);
            const float* g = u.gradients[part];
            float some = 0.0f;
#pragma omp simd reduction(+ : some)
            for (Index j = begin; j < end; j++) some += g[j] * g[j];
            sum += double(some);
        }
    return std::sqrt(sum);
}

// Bounds each number of the gradient; whether any was beyond.
bool clamp(const Update& u) {
    const float bound = float(u.max_value);
    Index beyond = 0;
    for (Index part = 0; part < u.parts; part++) {
        float* g = u.gradients[part];
#pragma omp simd reduction(+ : beyond)
        for (Index j = 0; j < u.sizes[part]; j++) {
            const float value = g[j];
            beyond += (value > bound) + (value < -bound);
            g[j] = value > bound ? bound : (value < -bound ? -bound : value);
        }
    }
    return beyond > 0;
}

void update_part(const Update& u, Index part, float factor) {
    const Index size = u.sizes[part];
    float *p = u.weights[part], *g = u.gradients[part];
    float* m = u.first != nullptr ? u.first[part] : nullptr;
    float* v = u.second != nullptr ? u.second[part] : nullptr;
    const float lr = float(u.lr), b1 = float(u.beta1), b2 = float(u.beta2), eps = float(u.eps);
    const float decay = float(u.weight_decay), momentum = float(u.momentum);
    if (u.optimizer == ADAM || u.optimizer == ADAMW) {
        const double step = double(*u.steps[part]);  // the number of this update, from 1 on
        const float rate = float(u.lr / (1.0 - std::pow(u.beta1, step)));
        const float root = float(std::sqrt(1.0 - std::pow(u.beta2, step)));
        const float coupled = u.optimizer == ADAM ? decay : 0.0f;
        const float shrunk = u.optimizer == ADAMW ? float(1.0 - u.lr * u.weight_decay) : 1.0f;
        const float rest1 = float(1.0 - u.beta1), rest2 = float(1.0 - u.beta2);
#pragma omp simd
        for (Index j = 0; j < size; j++) {
            const float weight = p[j] * shrunk, x = g[j] * factor + coupled * weight;
            const float mean = b1 * m[j] + rest1 * x, square = b2 * v[j] + rest2 * x * x;
            m[j] = mean, v[j] = square;
            p[j] = weight - rate * mean / (std::sqrt(square) / root + eps);
        }
    } else if (u.optimizer == SGD) {
#pragma omp simd
        for (Index j = 0; j < size; j++) {
            float x = g[j] * factor + decay * p[j];
            if (m != nullptr) {
                m[j] = momentum * m[j] + x;
                x = u.nesterov ? x + momentum * m[j] : m[j];
            }
            p[j] -= lr * x;
        }
    } else {
        const float rest = float(1.0 - u.beta2);
#pragma omp simd
        for (Index j = 0; j < size; j++) {
            const float x = g[j] * factor + decay * p[j];
            v[j] = b2 * v[j] + rest * x * x;
            float change = x / (std::sqrt(v[j]) + eps);
            if (m != nullptr) change = m[j] = momentum * m[j] + change;
            p[j] -= lr * change;
        }
    }
}

// Clips the gradient and updates the weights. Without a finite gradient it does nothing but tell the norm.
void apply(Update& u) {
    u.norm = norm_of(u);
    u.clipped = 0;
    if (!std::isfinite(u.norm)) return;
    double norm = u.norm;
    if (u.max_value > 0.0 && clamp(u)) {
        u.clipped = 1;
        norm = norm_of(u);
    }
    float factor = 1.0f;
    if (u.max_norm > 0.0 && norm > u.max_norm) {
        u.clipped = 1;
        factor = float(u.max_norm / (norm + 1e-6));
    }
    const Index numbers = std::accumulate(u.sizes, u.sizes + u.parts, Index(0));
    for (Index part = 0; u.steps != nullptr && part < u.parts; part++) *u.steps[part] += 1.0f;
    in_threads(u.parts, numbers < WORTH_A_THREAD ? 1 : std::min(u.threads, u.parts),
               [&](Index part) { update_part(u, part, factor); });
}

}  // namespace

// The loss of outputs, and its gradient. Each is a mean over rows; of numbers, also over the numbers of a row.

#pragma once

#include <cmath>

#include "threads.hpp"
#include "functions.hpp"

namespace {

enum Kind { CROSS_ENTROPY = 0, BCE = 1, MSE = 2, MAE = 3, HUBER = 4, PINBALL = 5 };

struct Loss {  // as library.py fills it in
    Index kind, rows, size, stride, levels;
    const float* outputs;  // (rows, size)
    const void* targets;   // CROSS_ENTROPY: the class of each row, as Index. Others: numbers, `stride` for each row
    const float* weights;  // CROSS_ENTROPY: of each class. BCE: of a yes of each label. Or null
    const float* of_row;   // (rows,): what the loss of each row is multiplied by, or null
    const float* level;    // PINBALL: the quantiles (levels,), of which each number has an output
    double smoothing, delta, share;  // of labels; of HUBER; and which share of the mean is asked for
    float* d_outputs;
    double loss;           // what comes out

    // What the loss of a row is multiplied by.
    float factor(Index row, double of_mean) const {
        return float(share / (double(rows) * of_mean)) * (of_row ? of_row[row] : 1.0f);
    }
};

// One row: e^(output - largest) goes to d.
double entropy_of(const Loss& e, Index row) {
    const Index classes = e.size, target = static_cast<const Index*>(e.targets)[row];
    const float* output = e.outputs + row * classes;
    float* d = e.d_outputs + row * classes;
    float largest = output[0];
    for (Index j = 1; j < classes; j++) largest = !(output[j] <= largest) ? output[j] : largest;
    float sum = 0.0f;
    for (Index j = 0; j < classes; j++) {
        d[j] = exponential(output[j] - largest);
        sum += d[j];
    }
    const float log_sum = std::log(sum) + largest, smooth = float(e.smoothing / double(classes));
    auto weight = [&](Index j) { return e.weights ? e.weights[j] : 1.0f; };
    const float certain = float(1.0 - e.smoothing) * weight(target);
    float loss = certain * (log_sum - output[target]), all = certain;
    if (smooth > 0.0f)
        for (Index j = 0; j < classes; j++) {
            loss += smooth * weight(j) * (log_sum - output[j]);
            all += smooth * weight(j);
        }
    const float factor = e.factor(row, 1.0);
    for (Index j = 0; j < classes; j++)
        d[j] = factor * (all * d[j] / sum - (j == target ? certain : 0.0f) - (smooth > 0.0f ? smooth * weight(j) : 0.0f));
    return double(loss) * double(factor);
}

struct Point {  // the loss of one output, and its derivative
    float loss, slope;
};

inline Point squared(float error) { return {error * error, 2.0f * error}; }

inline Point absolute(float error) { return {std::fabs(error), float((error > 0.0f) - (error < 0.0f))}; }

inline Point huber(float error, float delta) {
    const float size = std::fabs(error);
    if (size <= delta) return {0.5f * error * error, error};
    return {delta * (size - 0.5f * delta), error > 0.0f ? delta : -delta};
}

// Between the two slopes of an output that is exact, torch takes the middle.
inline Point pinball(float error, float level) {
    if (error == 0.0f) return {0.0f, 0.5f - level};
    return error < 0.0f ? Point{-level * error, -level} : Point{(1.0f - level) * error, 1.0f - level};
}

// Of a logit. log(1 + e^-x) is computed so that no exponential overflows.
inline Point binary(float logit, float target, float weight) {
    const float beyond = std::exp(-std::fabs(logit)), softplus = std::log1p(beyond) + (logit < 0.0f ? -logit : 0.0f);
    const float no = (logit < 0.0f ? 1.0f : beyond) / (1.0f + beyond);  // 1 - sigmoid
    const float factor = 1.0f + (weight - 1.0f) * target;
    return {(1.0f - target) * logit + factor * softplus, (1.0f - target) - factor * no};
}

// The mean of a row's numbers: `each` gives the Point of an output from its place, it and its target.
template <typename Each>
double mean_of(const Loss& e, Index row, const Each& each) {
    const float* output = e.outputs + row * e.size;
    const float* target = static_cast<const float*>(e.targets) + row * e.stride;
    const float factor = e.factor(row, double(e.size));
    const Index outputs = e.kind == PINBALL ? e.levels : 1;  // of one target
    double sum = 0.0;
    for (Index j = 0; j < e.size; j++) {
        const Point found = each(j, output[j], target[j / outputs]);
        sum += double(found.loss);
        e.d_outputs[row * e.size + j] = factor * found.slope;
    }
    return sum * double(factor);
}

double loss_of(const Loss& e, Index row) {
    switch (e.kind) {
        case CROSS_ENTROPY: return entropy_of(e, row);
        case BCE:
            return mean_of(e, row, [&](Index j, float output, float target) {
                return binary(output, target, e.weights ? e.weights[j] : 1.0f);
            });
        case MSE: return mean_of(e, row, [](Index, float output, float target) { return squared(output - target); });
        case MAE: return mean_of(e, row, [](Index, float output, float target) { return absolute(output - target); });
        case HUBER:
            return mean_of(e, row, [&](Index, float output, float target) {
                return huber(output - target, float(e.delta));
            });
        default:
            return mean_of(e, row, [&](Index j, float output, float target) {
                return pinball(output - target, e.level[j % e.levels]);
            });
    }
}

void compute(Loss& e) {
    e.loss = 0.0;
    for (Index row = 0; row < e.rows; row++) e.loss += loss_of(e, row);
}

}  // namespace

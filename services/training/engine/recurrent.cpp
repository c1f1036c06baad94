// A recurrent network on a CPU, forwards and backwards: all layers, directions and time steps in one call, with or
// without the pooling and the linear head on top; and the update of its weights.
//
// A batch is cut into shards of whole sequences, one per thread, and a thread does everything for its shard: threads
// wait for each other only at the end. The sequences of a shard are sorted by length, the longest first, so those that
// are valid at a step are its first rows: no step after an end is computed. Steps lie one after the other ("packed"), so
// that one matrix product makes the input's share of the gates of all of them. Gates are activated in place, and a
// backward pass writes their gradients over them.
//
// The threads are torch's (threads.hpp), and the matrix products our own (panels.hpp).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#include "threads.hpp"
#include "functions.hpp"
#include "losses.hpp"
#include "norm.hpp"
#include "panels.hpp"
#include "update.hpp"

namespace {

// ---- what is computed

enum Cell { TANH = 0, RELU = 1, LSTM = 2, GRU = 3 };
enum Pooling { FINAL = 0, LAST = 1, MEAN = 2, MAX = 3, NONE = 4 };

struct Head {  // a pooling, batch normalisation, and a linear layer
    Index pooling, beside, size;
    const Norm* norm;           // or null
    const float* side;          // (batch, beside): what the linear layer reads beside what is pooled; or null
    const float* mask;          // (rows, width): what that is multiplied by; or null
    const float* weight;        // (size, width + beside)
    const float* bias;          // (size,)
    float* outputs;             // (rows, size): a row for each sequence, or for each valid step of one after the other
    const float* d_outputs;
};

constexpr Index MOST_NUMBERS = Index(1) << 24;  // of the gradients of all shards but the first

struct Layers {  // as library.py fills it in
    Index cell, batch, time, input, hidden, layers, directions, threads;
    const float* x;              // (batch, time, input)
    const Index* lengths;        // (batch,), or null where every step is valid
    const float* const* weights; // of each layer and direction: input's, recurrent, and a bias of each
    const float* const* masks;   // of each layer but the last: what its outputs are multiplied by, or null
    Index mask_step, mask_row;   // how far apart the numbers of two steps and of two sequences are in a mask
    const float* h0;             // (layers * directions, batch, hidden), or null for zeros
    const float* c0;
    float* outputs;              // (batch, time, width), or null where nobody reads them
    float* final;                // (batch, width), or null: of the top layer, after the last step of each direction
    float* h;                    // (layers * directions, batch, hidden), or null: all states after the last step
    float* c;
    float* saved;                // what the backward pass reads: saved_size() numbers
    // backwards
    const float* d_outputs;      // or null
    const float* d_final;        // or null
    float* const* d_weights;     // as weights, then those of the head; what was in there is overwritten
    float* d_x;                  // or null
    float* scratch;              // scratch_size() numbers
    Head* head;                  // or null

    Index gates() const { return cell == LSTM ? 4 : cell == GRU ? 3 : 1; }
    Index width() const { return directions * hidden; }
    Index reads(Index layer) const { return layer ? width() : input; }
    // Each shard but the first has a gradient of all weights of its own, which must not take too much memory.
    Index shards() const {
        Index weights = 0;
        for (Index layer = 0; layer < layers; layer++)
            weights += directions * gates() * hidden * (reads(layer) + hidden + 2);
        return std::max<Index>(1, std::min({threads, batch, 1 + MOST_NUMBERS / weights}));
    }
    bool has_norm() const { return head != nullptr && head->norm != nullptr; }
    bool has_mask(Index layer) const { return masks != nullptr && layer + 1 < layers && masks[layer] != nullptr; }
    const float* const* of(Index layer, Index direction) const { return weights + 4 * (layer * directions + direction); }
    Index pooled() const { return width() + head->beside; }
    std::vector<Index> parameters() const {  // the sizes of d_weights
        std::vector<Index> found;
        const Index rows = gates() * hidden;
        for (Index layer = 0; layer < layers; layer++)
            for (Index direction = 0; direction < directions; direction++)
                found.insert(found.end(), {rows * reads(layer), rows * hidden, rows, rows});
        if (head != nullptr) found.insert(found.end(), {head->size * pooled(), head->size});
        return found;
    }
};

Index padded(Index numbers) { return (numbers + 15) / 16 * 16; }  // a cache line

class Memory {  // hands out pieces of one block, each at the beginning of a cache line
  public:
    explicit Memory(float* begin) : next(begin) {}
    float* take(Index numbers) {
        float* found = next;
        next += padded(numbers);
        return found;
    }

  private:
    float* next;
};

// The sequences of one thread, and where their steps lie.
struct Shard {
    std::vector<Index> rows;    // which sequences of the batch, the longest first
    std::vector<Index> count;   // (time + 1,): how many of them are valid at a step; 0 after the last one
    std::vector<Index> begin;   // (time + 1,): where the rows of a step begin
    Index time = 0;             // of the longest one
    bool is_even = true;        // whether all are of one length

    Shard(const Layers& l, Index number) {
        const Index shards = l.shards();
        if (l.lengths == nullptr) {
            const Index from = l.batch * number / shards, to = l.batch * (number + 1) / shards;
            rows.resize(to - from);
            std::iota(rows.begin(), rows.end(), from);
        } else {
            std::vector<Index> all(l.batch);
            std::iota(all.begin(), all.end(), Index(0));
            std::stable_sort(all.begin(), all.end(), [&](Index a, Index b) { return l.lengths[a] > l.lengths[b]; });
            for (Index at = number; at < l.batch; at += shards) rows.push_back(all[at]);
        }
        time = rows.empty() ? 0 : length(l, rows[0]);
        count.assign(time + 1, 0);
        begin.assign(time + 1, 0);
        Index valid = size();
        for (Index t = 0; t < time; t++) {
            while (valid > 0 && length(l, rows[valid - 1]) <= t) valid--;
            count[t] = valid;
            begin[t + 1] = begin[t] + valid;
        }
        is_even = time == 0 || count[time - 1] == size();
    }

    static Index length(const Layers& l, Index row) { return l.lengths ? l.lengths[row] : l.time; }
    // Where the outputs of a sequence begin if there is one for each valid step.
    static std::vector<Index> begins(const Layers& l) {
        std::vector<Index> found(l.batch + 1, 0);
        for (Index row = 0; row < l.batch; row++) found[row + 1] = found[row] + length(l, row);
        return found;
    }

    Index size() const { return Index(rows.size()); }
    Index steps() const { return begin[time]; }
};

// What a shard keeps of a layer. Rows are the packed steps.
struct Kept {
    float* gates[2];   // (steps, gates * hidden) by direction: activated, and later their gradients
    float* cells[2];   // LSTM: the cells. GRU: what the reset gate multiplies. (steps, hidden)
    float* tanh_of_cells[2];  // LSTM: tanh of the cells
    float* outputs;    // (steps, width)
    float* masked;     // the same times the mask
};

struct Saved {
    float* x;  // (steps, input)
    std::vector<Kept> layers;
    float* pooled;  // (sequences or steps, width + beside): what the head reads
    float* normal;  // (sequences or steps, width): what is pooled, with the mean 0 and the variance 1
    float* largest;  // (sequences, 2 * width): the largest output, and how many there are of it; of the pooling `max`

    static Index rows(const Layers& l, const Shard& shard) {
        return l.head->pooling == NONE ? shard.steps() : shard.size();
    }

    static Index size(const Layers& l, const Shard& shard) {
        const Index steps = shard.steps();
        Index sum = padded(steps * l.input);
        if (l.head != nullptr) sum += padded(rows(l, shard) * l.pooled());
        if (l.has_norm()) sum += padded(rows(l, shard) * l.width());
        if (l.head != nullptr && l.head->pooling == MAX) sum += padded(shard.size() * 2 * l.width());
        const Index inner = l.cell == LSTM ? 2 : l.cell == GRU ? 1 : 0;
        for (Index layer = 0; layer < l.layers; layer++) {
            sum += l.directions * (padded(steps * l.gates() * l.hidden) + inner * padded(steps * l.hidden));
            sum += padded(steps * l.width()) * (1 + l.has_mask(layer));
        }
        return sum;
    }

    Saved(const Layers& l, const Shard& shard, Memory memory) {
        const Index steps = shard.steps();
        x = memory.take(steps * l.input);
        pooled = l.head != nullptr ? memory.take(rows(l, shard) * l.pooled()) : nullptr;
        normal = l.has_norm() ? memory.take(rows(l, shard) * l.width()) : nullptr;
        largest = l.head != nullptr && l.head->pooling == MAX ? memory.take(shard.size() * 2 * l.width()) : nullptr;
        layers.resize(l.layers);
        for (Index layer = 0; layer < l.layers; layer++) {
            Kept& kept = layers[layer];
            for (Index d = 0; d < l.directions; d++) {
                kept.gates[d] = memory.take(steps * l.gates() * l.hidden);
                kept.cells[d] = l.cell == LSTM || l.cell == GRU ? memory.take(steps * l.hidden) : nullptr;
                kept.tanh_of_cells[d] = l.cell == LSTM ? memory.take(steps * l.hidden) : nullptr;
            }
            kept.outputs = memory.take(steps * l.width());
            kept.masked = l.has_mask(layer) ? memory.take(steps * l.width()) : nullptr;
        }
    }

    const float* read_by(const Layers& l, Index layer) const {
        if (layer == 0) return x;
        return l.has_mask(layer - 1) ? layers[layer - 1].masked : layers[layer - 1].outputs;
    }
};

// What the head answers, and the gradient of what it reads.
Index head_scratch(const Layers& l, Index sequences, Index steps) {
    if (l.head == nullptr) return 0;
    const Index rows = l.head->pooling == NONE ? steps : sequences;
    return padded(rows * l.head->size) + padded(rows * l.pooled());
}

// The most that is laid out at a time.
Index panels_of(const Layers& l) {
    const Index gates = l.gates() * l.hidden, widest = std::max(l.input, l.width());
    Index most = std::max(size_of_panels(gates, l.hidden), size_of_panels(l.hidden, gates));
    for (Index size : {l.input, l.reads(l.layers - 1)})
        most = std::max({most, size_of_panels(size + 1, gates), size_of_panels(gates, size)});
    if (l.head != nullptr)
        most = std::max({most, size_of_panels(l.pooled() + 1, l.head->size), size_of_panels(l.head->size, l.pooled()),
                         size_of_panels(BLOCK, l.pooled())});
    return std::max({most, size_of_panels(BLOCK, widest), size_of_panels(BLOCK, l.hidden)});
}

Index scratch_of(const Layers& l, Index sequences, Index steps) {
    const Index gates = l.gates() * l.hidden;
    return padded(panels_of(l)) + padded(gates)          // laid out weights, and biases
           + padded(sequences * gates)                   // GRU: the recurrent share of the gates
           + 2 * padded(sequences * l.hidden)            // gradients of h and c, or what comes before the first step
           + 2 * padded(steps * l.width())               // gradients of what layers read and answer
           + padded(steps * l.hidden)                    // states one step before
           + head_scratch(l, sequences, steps)
           + (l.cell == GRU ? padded(steps * gates) : 0);  // gradients of the recurrent share of the gates
}

// Where each shard's part of saved and of scratch begins; the last number is the size of it all.
struct Plan {
    std::vector<Shard> shards;
    std::vector<Index> saved, scratch, gradients, sizes, begins;
    Index statistics = 0;  // where those of batch normalisation begin in saved

    explicit Plan(const Layers& l) : sizes(l.parameters()) {
        Index at_saved = 0, at_scratch = 0;
        if (l.head != nullptr && l.head->pooling == NONE) begins = Shard::begins(l);
        for (Index number = 0; number < l.shards(); number++) {
            shards.emplace_back(l, number);
            const Shard& shard = shards.back();
            saved.push_back(at_saved);
            scratch.push_back(at_scratch);
            at_saved += Saved::size(l, shard);
            at_scratch += scratch_of(l, shard.size(), shard.steps());
        }
        for (Index number = 1; number < l.shards(); number++) {  // the first one writes where the caller wants it
            gradients.push_back(at_scratch);
            for (Index size : sizes) at_scratch += padded(size);
        }
        statistics = at_saved;
        if (l.has_norm()) at_saved += 2 * padded(l.width());
        saved.push_back(at_saved);
        scratch.push_back(at_scratch);
    }

    // Of the head, in all shards.
    Index rows(const Layers& l) const { return l.head->pooling == NONE ? begins.back() : l.batch; }

    Statistics statistics_of(const Layers& l) const {
        Memory memory(l.saved + statistics);
        float* mean = memory.take(l.width());
        return {mean, memory.take(l.width())};
    }
};

// ---- cells: one step of some rows. `before` is null where a row begins from zeros.

template <bool HAS_BEFORE>
inline void lstm(Index hidden, float* gates, const float* c_before, float* c, float* tanh_of_c, float* h) {
    float *in = gates, *forget = gates + hidden, *cell = gates + 2 * hidden, *out = gates + 3 * hidden;
#pragma omp simd
    for (Index j = 0; j < hidden; j++) {
        const float i = sigmoid(in[j]), f = sigmoid(forget[j]), g = fast_tanh(cell[j]), o = sigmoid(out[j]);
        const float value = HAS_BEFORE ? f * c_before[j] + i * g : i * g;
        const float squashed = fast_tanh(value);
        in[j] = i, forget[j] = f, cell[j] = g, out[j] = o;
        c[j] = value, tanh_of_c[j] = squashed, h[j] = o * squashed;
    }
}

template <bool HAS_BEFORE>
inline void lstm_back(Index hidden, float* gates, const float* c_before, const float* tanh_of_c, const float* d_h,
                      float* d_c) {
    float *in = gates, *forget = gates + hidden, *cell = gates + 2 * hidden, *out = gates + 3 * hidden;
#pragma omp simd
    for (Index j = 0; j < hidden; j++) {
        const float i = in[j], f = forget[j], g = cell[j], o = out[j], squashed = tanh_of_c[j];
        const float of_c = d_c[j] + d_h[j] * o * (1.0f - squashed * squashed);
        out[j] = d_h[j] * squashed * o * (1.0f - o);
        in[j] = of_c * g * i * (1.0f - i);
        forget[j] = HAS_BEFORE ? of_c * c_before[j] * f * (1.0f - f) : 0.0f;
        cell[j] = of_c * i * (1.0f - g * g);
        d_c[j] = of_c * f;
    }
}

template <bool HAS_BEFORE>
inline void gru(Index hidden, float* gates, const float* recurrent, const float* bias, const float* h_before,
                float* inner, float* h) {
    float *reset = gates, *update = gates + hidden, *candidate = gates + 2 * hidden;
#pragma omp simd
    for (Index j = 0; j < hidden; j++) {
        const float r = sigmoid(HAS_BEFORE ? reset[j] + recurrent[j] : reset[j]);
        const float z = sigmoid(HAS_BEFORE ? update[j] + recurrent[hidden + j] : update[j]);
        const float of_h = HAS_BEFORE ? recurrent[2 * hidden + j] + bias[2 * hidden + j] : bias[2 * hidden + j];
        const float n = fast_tanh(candidate[j] + r * of_h);
        reset[j] = r, update[j] = z, candidate[j] = n, inner[j] = of_h;
        h[j] = HAS_BEFORE ? n + z * (h_before[j] - n) : n - z * n;
    }
}

// Turns d_h into its share that passes the gates by: d_h * z.
template <bool HAS_BEFORE>
inline void gru_back(Index hidden, float* gates, float* recurrent, const float* h_before, const float* inner,
                     float* d_h) {
    float *reset = gates, *update = gates + hidden, *candidate = gates + 2 * hidden;
#pragma omp simd
    for (Index j = 0; j < hidden; j++) {
        const float r = reset[j], z = update[j], n = candidate[j], d = d_h[j];
        const float of_n = d * (1.0f - z) * (1.0f - n * n);
        const float of_z = d * ((HAS_BEFORE ? h_before[j] : 0.0f) - n) * z * (1.0f - z);
        const float of_r = of_n * inner[j] * r * (1.0f - r);
        reset[j] = of_r, update[j] = of_z, candidate[j] = of_n;
        recurrent[j] = of_r, recurrent[hidden + j] = of_z, recurrent[2 * hidden + j] = of_n * r;
        d_h[j] = d * z;
    }
}

// The valid steps of (batch, time, size) one after the other.
void pack(const Layers& l, const Shard& shard, const float* from, Index size, float* to) {
    for (Index row = 0; row < shard.size(); row++) {
        const float* sequence = from + shard.rows[row] * l.time * size;
        const Index length = Shard::length(l, shard.rows[row]);
        for (Index t = 0; t < length; t++)
            std::memcpy(to + (shard.begin[t] + row) * size, sequence + t * size, sizeof(float) * size);
    }
}

// The other way, with zeros after each end.
void unpack(const Layers& l, const Shard& shard, const float* from, Index size, float* to) {
    for (Index row = 0; row < shard.size(); row++) {
        float* sequence = to + shard.rows[row] * l.time * size;
        const Index length = Shard::length(l, shard.rows[row]);
        for (Index t = 0; t < length; t++)
            std::memcpy(sequence + t * size, from + (shard.begin[t] + row) * size, sizeof(float) * size);
        std::memset(sequence + length * size, 0, sizeof(float) * (l.time - length) * size);
    }
}

// Calls work(place among the shard's, sequence of the shard, row of the head's outputs) for each row that a head reads.
template <typename Work>
void for_each_row(const Layers& l, const Plan& plan, const Shard& shard, const Work& work) {
    if (l.head->pooling != NONE) {
        for (Index row = 0; row < shard.size(); row++) work(row, row, shard.rows[row]);
        return;
    }
    for (Index t = 0; t < shard.time; t++)
        for (Index row = 0; row < shard.count[t]; row++)
            work(shard.begin[t] + row, row, plan.begins[shard.rows[row]] + t);
}

// ---- forwards

struct Forward {
    const Layers& l;
    const Plan& plan;
    const Shard& shard;
    const Saved saved;
    float *panels, *biases;
    float* recurrent;
    float *h_begin, *c_begin, *answers;

    Forward(const Layers& layers, const Plan& plan, Index number)
        : l(layers),
          plan(plan),
          shard(plan.shards[number]),
          saved(layers, shard, Memory(layers.saved + plan.saved[number])) {
        float* scratch_at = l.scratch + plan.scratch[number];
        Memory memory(scratch_at);
        panels = memory.take(panels_of(l));
        biases = memory.take(l.gates() * l.hidden);
        recurrent = memory.take(shard.size() * l.gates() * l.hidden);
        h_begin = memory.take(shard.size() * l.hidden);
        c_begin = memory.take(shard.size() * l.hidden);
        answers = l.head != nullptr ? memory.take(Saved::rows(l, shard) * l.head->size) : nullptr;
    }

    void run() const {
        pack(l, shard, l.x, l.input, saved.x);
        for (Index layer = 0; layer < l.layers; layer++) {
            for (Index d = 0; d < l.directions; d++) recur(layer, d);
            if (l.has_mask(layer)) mask(layer);
        }
        if (l.outputs != nullptr) unpack(l, shard, saved.layers.back().outputs, l.width(), l.outputs);
        if (l.head != nullptr) pool();
    }

    void begin_from(const float* given, Index layer, Index d, float* to) const {
        for (Index row = 0; row < shard.size(); row++)
            std::memcpy(to + row * l.hidden,
                        given + ((layer * l.directions + d) * l.batch + shard.rows[row]) * l.hidden,
                        sizeof(float) * l.hidden);
    }

    void recur(Index layer, Index d) const {
        const Index hidden = l.hidden, gates = l.gates() * hidden, width = l.width(), steps = shard.steps();
        const Kept& kept = saved.layers[layer];
        const float* const* weights = l.of(layer, d);
        float* all = kept.gates[d];
        // The biases, and the input's share of the gates at all steps. GRU: the bias within the reset gate's product
        // stays outside.
        for (Index j = 0; j < gates; j++)
            biases[j] = weights[2][j] + (l.cell == GRU && j >= 2 * hidden ? 0.0f : weights[3][j]);
        const Index size = l.reads(layer);
        lay_out(true, weights[0], size, size, gates, panels, biases);
        multiply(steps, gates, size, saved.read_by(l, layer), size, panels, BIAS, all, gates);
        lay_out(true, weights[1], hidden, hidden, gates, panels);
        const bool is_given = l.h0 != nullptr;
        if (is_given) {
            begin_from(l.h0, layer, d, h_begin);
            if (l.cell == LSTM) begin_from(l.c0, layer, d, c_begin);
        }
        float* outputs = kept.outputs + d * hidden;
        for (Index place = 0; place < shard.time; place++) {
            const Index t = d ? shard.time - 1 - place : place;
            const Index rows = shard.count[t];
            // How many rows go on, and from where; the rest begin here.
            const Index going = d ? shard.count[t + 1] : (t ? rows : 0);
            const float* h = outputs + shard.begin[d ? t + 1 : t - (t > 0)] * width;
            const float* c = kept.cells[d] ? kept.cells[d] + shard.begin[d ? t + 1 : t - (t > 0)] * hidden : nullptr;
            float* now = all + shard.begin[t] * gates;
            step(now, going, h, width, c, kept, d, t, 0, weights[3]);
            if (rows > going)
                step(now, rows, is_given ? h_begin : nullptr, hidden, is_given ? c_begin : nullptr, kept, d, t, going,
                     weights[3]);
        }
        keep_states(layer, d);
    }

    // Rows from `from` up to `to` of step t, from the states before (row by row, null for zeros).
    void step(float* now, Index to, const float* h, Index ld, const float* c, const Kept& kept, Index d, Index t,
              Index from, const float* bias) const {
        const Index hidden = l.hidden, gates = l.gates() * hidden, width = l.width(), rows = to - from;
        if (rows <= 0) return;
        float* into = l.cell == GRU ? recurrent : now;
        if (h != nullptr)
            multiply(rows, gates, hidden, h + from * ld, ld, panels, l.cell == GRU ? ZEROS : RESULT, into + from * gates, gates);
        float* out = kept.outputs + d * hidden + shard.begin[t] * width;
        for (Index row = from; row < to; row++) {
            float *g = now + row * gates, *o = out + row * width;
            const Index at = (shard.begin[t] + row) * hidden;
            if (l.cell == LSTM) {
                if (h != nullptr)
                    lstm<true>(hidden, g, c + row * hidden, kept.cells[d] + at, kept.tanh_of_cells[d] + at, o);
                else
                    lstm<false>(hidden, g, nullptr, kept.cells[d] + at, kept.tanh_of_cells[d] + at, o);
            } else if (l.cell == GRU) {
                if (h != nullptr)
                    gru<true>(hidden, g, recurrent + row * gates, bias, h + row * ld, kept.cells[d] + at, o);
                else
                    gru<false>(hidden, g, nullptr, bias, nullptr, kept.cells[d] + at, o);
            } else if (l.cell == TANH) {
#pragma omp simd
                for (Index j = 0; j < hidden; j++) o[j] = fast_tanh(g[j]);
            } else {
#pragma omp simd
                for (Index j = 0; j < hidden; j++) o[j] = g[j] < 0.0f ? 0.0f : g[j];  // NaN stays NaN
            }
        }
    }

    void mask(Index layer) const {
        const Kept& kept = saved.layers[layer];
        const Index width = l.width();
        for (Index t = 0; t < shard.time; t++)
            for (Index row = 0; row < shard.count[t]; row++) {
                const float* factor = l.masks[layer] + t * l.mask_step + shard.rows[row] * l.mask_row;
                const float* from = kept.outputs + (shard.begin[t] + row) * width;
                float* to = kept.masked + (shard.begin[t] + row) * width;
#pragma omp simd
                for (Index j = 0; j < width; j++) to[j] = from[j] * factor[j];
            }
    }

    void keep_states(Index layer, Index d) const {
        if (l.h == nullptr && (layer + 1 < l.layers || l.final == nullptr)) return;
        const Kept& kept = saved.layers[layer];
        const Index hidden = l.hidden, width = l.width();
        for (Index row = 0; row < shard.size(); row++) {
            const Index last = d ? row : shard.begin[Shard::length(l, shard.rows[row]) - 1] + row;
            const float* h = kept.outputs + last * width + d * hidden;
            const Index sequence = shard.rows[row];
            if (layer + 1 == l.layers && l.final != nullptr)
                std::memcpy(l.final + sequence * width + d * hidden, h, sizeof(float) * hidden);
            if (l.h == nullptr) continue;
            const Index to = ((layer * l.directions + d) * l.batch + sequence) * hidden;
            std::memcpy(l.h + to, h, sizeof(float) * hidden);
            if (l.cell == LSTM) std::memcpy(l.c + to, kept.cells[d] + last * hidden, sizeof(float) * hidden);
        }
    }

    // What the head reads of the top layer's outputs.
    void pool() const {
        const Index width = l.width(), pooled = l.pooled(), rows = Saved::rows(l, shard);
        if (l.head->pooling == NONE) {
            const float* from = saved.layers.back().outputs;
            for (Index at = 0; at < rows; at++)
                std::memcpy(saved.pooled + at * pooled, from + at * width, sizeof(float) * width);
        } else {
            for (Index row = 0; row < rows; row++) pool(row, saved.pooled + row * pooled);
        }
    }

    Piece piece() const { return {saved.pooled, Saved::rows(l, shard), l.pooled()}; }

    // What the head makes of it. Batch normalisation needs that of all shards before.
    void answer() const {
        const Head& head = *l.head;
        const Index width = l.width(), pooled = l.pooled(), rows = Saved::rows(l, shard);
        if (head.norm != nullptr) normalise(*head.norm, plan.statistics_of(l), piece(), width, saved.normal);
        for_each_row(l, plan, shard, [&](Index at, Index row, Index output) {
            float* read = saved.pooled + at * pooled;
            if (head.mask != nullptr) {
                const float* factor = head.mask + output * width;
#pragma omp simd
                for (Index j = 0; j < width; j++) read[j] *= factor[j];
            }
            if (head.beside)
                std::memcpy(read + width, head.side + shard.rows[row] * head.beside, sizeof(float) * head.beside);
        });
        lay_out(true, head.weight, pooled, pooled, head.size, panels, head.bias);
        multiply(rows, head.size, pooled, saved.pooled, pooled, panels, BIAS, answers, head.size);
        for_each_row(l, plan, shard, [&](Index at, Index, Index output) {
            std::memcpy(head.outputs + output * head.size, answers + at * head.size, sizeof(float) * head.size);
        });
    }

    void pool(Index row, float* to) const {
        const Index hidden = l.hidden, width = l.width(), length = Shard::length(l, shard.rows[row]);
        const float* outputs = saved.layers.back().outputs;
        auto at = [&](Index t) { return outputs + (shard.begin[t] + row) * width; };
        if (l.head->pooling == FINAL || l.head->pooling == LAST) {
            std::memcpy(to, at(length - 1), sizeof(float) * width);
            if (l.directions == 2 && l.head->pooling == FINAL)
                std::memcpy(to + hidden, at(0) + hidden, sizeof(float) * hidden);
        } else if (l.head->pooling == MEAN) {
            std::memcpy(to, at(0), sizeof(float) * width);
            for (Index t = 1; t < length; t++) {
                const float* more = at(t);
#pragma omp simd
                for (Index j = 0; j < width; j++) to[j] += more[j];
            }
            const float share = 1.0f / float(length);
            for (Index j = 0; j < width; j++) to[j] *= share;
        } else {
            float *largest = saved.largest + row * 2 * width, *count = largest + width;
            std::memcpy(largest, at(0), sizeof(float) * width);
            for (Index j = 0; j < width; j++) count[j] = 1.0f;
            for (Index t = 1; t < length; t++) {
                const float* more = at(t);
#pragma omp simd
                for (Index j = 0; j < width; j++) {
                    const bool is_larger = !(more[j] <= largest[j]);  // NaN is
                    count[j] = is_larger ? 1.0f : more[j] == largest[j] ? count[j] + 1.0f : count[j];
                    largest[j] = is_larger ? more[j] : largest[j];
                }
            }
            std::memcpy(to, largest, sizeof(float) * width);
        }
    }
};

// ---- backwards

struct Backward {
    const Layers& l;
    const Plan& plan;
    const Shard& shard;
    const Saved saved;
    std::vector<float*> into;  // as Layers::d_weights, of this shard
    float *panels, *d_h, *d_c, *d_answered, *d_read, *before, *recurrent, *d_answers, *d_pooled;

    Backward(const Layers& layers, const Plan& plan, Index number)
        : l(layers),
          plan(plan),
          shard(plan.shards[number]),
          saved(layers, shard, Memory(layers.saved + plan.saved[number])) {
        float* scratch_at = l.scratch + plan.scratch[number];
        Memory memory(scratch_at);
        panels = memory.take(panels_of(l));
        memory.take(l.gates() * l.hidden);
        memory.take(shard.size() * l.gates() * l.hidden);
        d_h = memory.take(shard.size() * l.hidden);
        d_c = memory.take(shard.size() * l.hidden);
        d_answered = memory.take(shard.steps() * l.width());
        d_read = memory.take(shard.steps() * l.width());
        before = memory.take(shard.steps() * l.hidden);
        recurrent = l.cell == GRU ? memory.take(shard.steps() * l.gates() * l.hidden) : nullptr;
        if (l.head != nullptr) {
            d_answers = memory.take(Saved::rows(l, shard) * l.head->size);
            d_pooled = memory.take(Saved::rows(l, shard) * l.pooled());
        }
        float* next = number ? l.scratch + plan.gradients[number - 1] : nullptr;
        for (Index part = 0; part < Index(plan.sizes.size()); part++) {
            into.push_back(number ? next : l.d_weights[part]);
            if (number) next += padded(plan.sizes[part]);
        }
    }

    void run() {
        bool has_outputs = l.d_outputs != nullptr;
        if (has_outputs) pack(l, shard, l.d_outputs, l.width(), d_answered);
        if (l.head != nullptr) has_outputs = to_outputs();
        for (Index layer = l.layers - 1; layer >= 0; layer--) {
            for (Index d = 0; d < l.directions; d++) {
                recur(layer, d, has_outputs);
                weigh(layer, d);
            }
            if (layer == 0) break;
            pass_down(layer);
            std::swap(d_answered, d_read);
            has_outputs = true;
        }
        if (l.d_x != nullptr) to_input();
    }

    // The gradients of the head, and of what it reads: in d_pooled.
    void ask_head() const {
        const Head& head = *l.head;
        const Index width = l.width(), pooled = l.pooled(), rows = Saved::rows(l, shard);
        for_each_row(l, plan, shard, [&](Index at, Index, Index output) {
            std::memcpy(d_answers + at * head.size, head.d_outputs + output * head.size, sizeof(float) * head.size);
        });
        multiply_transposed(head.size, pooled, rows, d_answers, head.size, saved.pooled, pooled, panels,
                            into[into.size() - 2], pooled);
        sum_rows(d_answers, rows, head.size, into.back());
        lay_out(false, head.weight, pooled, head.size, pooled, panels);
        multiply(rows, pooled, head.size, d_answers, head.size, panels, ZEROS, d_pooled, pooled);
        if (head.mask != nullptr)
            for_each_row(l, plan, shard, [&](Index at, Index, Index output) {
                const float* factor = head.mask + output * width;
                float* each = d_pooled + at * pooled;
#pragma omp simd
                for (Index j = 0; j < width; j++) each[j] *= factor[j];
            });
    }

    Piece piece() const { return {d_pooled, Saved::rows(l, shard), l.pooled()}; }

    // The gradient of the top layer's outputs: in d_answered, or, if false is returned, in d_pooled alone, because only
    // the last states count. Batch normalisation needs the d_pooled of all shards before.
    bool to_outputs() const {
        const Head& head = *l.head;
        const Index width = l.width(), pooled = l.pooled(), rows = Saved::rows(l, shard);
        if (head.norm != nullptr)
            normalise_back(*head.norm, plan.statistics_of(l), piece(), width, saved.normal, plan.rows(l));
        if (head.pooling == FINAL || (head.pooling == LAST && l.directions == 1)) return false;
        if (head.pooling == NONE) {
            for (Index at = 0; at < rows; at++)
                std::memcpy(d_answered + at * width, d_pooled + at * pooled, sizeof(float) * width);
            return true;
        }
        if (head.pooling == LAST) std::memset(d_answered, 0, sizeof(float) * shard.steps() * width);
        for (Index row = 0; row < rows; row++) {
            const float* from = d_pooled + row * pooled;
            const Index length = Shard::length(l, shard.rows[row]);
            if (head.pooling == LAST) {  // forwards it is the final state
                std::memcpy(d_answered + (shard.begin[length - 1] + row) * width + l.hidden, from + l.hidden,
                            sizeof(float) * l.hidden);
            } else if (head.pooling == MEAN) {
                const float share = 1.0f / float(length);
                for (Index t = 0; t < length; t++) {
                    float* to = d_answered + (shard.begin[t] + row) * width;
#pragma omp simd
                    for (Index j = 0; j < width; j++) to[j] = from[j] * share;
                }
            } else {
                const float *largest = saved.largest + row * 2 * width, *count = largest + width;
                for (Index t = 0; t < length; t++) {
                    const float* output = saved.layers.back().outputs + (shard.begin[t] + row) * width;
                    float* to = d_answered + (shard.begin[t] + row) * width;
#pragma omp simd
                    for (Index j = 0; j < width; j++) to[j] = output[j] == largest[j] ? from[j] / count[j] : 0.0f;
                }
            }
        }
        return true;
    }

    // The gradient of the state after the last step of a direction, as the head gives it.
    void final_of_head(Index row, Index d) const {
        if (d && l.head->pooling == LAST)  // it is in d_answered
            std::memset(d_h + row * l.hidden, 0, sizeof(float) * l.hidden);
        else
            std::memcpy(d_h + row * l.hidden, d_pooled + row * l.pooled() + d * l.hidden, sizeof(float) * l.hidden);
    }

    // The states before each packed step, of one direction: (steps, hidden) in `before`, unless they already lie so.
    // Gives the first packed step that has one, where the states of it and of the following begin, and how far apart.
    struct Before {
        const float* states;
        Index ld, first, steps;
    };

    Before states_before(Index layer, Index d) const {
        const Index hidden = l.hidden, width = l.width(), steps = shard.steps();
        const float* outputs = saved.layers[layer].outputs + d * hidden;
        if (shard.is_even && l.h0 == nullptr) {
            const Index rest = std::max<Index>(0, steps - shard.size());
            if (d) return {outputs + shard.size() * width, width, 0, rest};
            return {outputs, width, shard.size(), rest};
        }
        for (Index t = 0; t < shard.time; t++) {
            const Index going = d ? shard.count[t + 1] : (t ? shard.count[t] : 0);
            const float* h = outputs + shard.begin[d ? t + 1 : t - (t > 0)] * width;
            for (Index row = 0; row < shard.count[t]; row++) {
                float* to = before + (shard.begin[t] + row) * hidden;
                if (row < going)
                    std::memcpy(to, h + row * width, sizeof(float) * hidden);
                else if (l.h0 != nullptr)
                    std::memcpy(to, given(l.h0, layer, d, row), sizeof(float) * hidden);
                else
                    std::memset(to, 0, sizeof(float) * hidden);
            }
        }
        return {before, hidden, 0, steps};
    }

    const float* given(const float* states, Index layer, Index d, Index row) const {
        return states + ((layer * l.directions + d) * l.batch + shard.rows[row]) * l.hidden;
    }

    void recur(Index layer, Index d, bool has_outputs) const {
        const Index hidden = l.hidden, gates = l.gates() * hidden, width = l.width();
        const Kept& kept = saved.layers[layer];
        const float* outputs = kept.outputs + d * hidden;
        lay_out(false, l.of(layer, d)[1], hidden, gates, hidden, panels);
        const bool is_top = layer + 1 == l.layers;
        for (Index row = 0; row < shard.size(); row++) {
            if (is_top && l.head != nullptr && l.head->pooling <= LAST)
                final_of_head(row, d);
            else if (is_top && l.d_final != nullptr)
                std::memcpy(d_h + row * hidden, l.d_final + shard.rows[row] * width + d * hidden,
                            sizeof(float) * hidden);
            else
                std::memset(d_h + row * hidden, 0, sizeof(float) * hidden);
        }
        if (l.cell == LSTM) std::memset(d_c, 0, sizeof(float) * shard.size() * hidden);
        for (Index place = 0; place < shard.time; place++) {
            const Index t = d ? place : shard.time - 1 - place;
            const Index rows = shard.count[t];
            const Index going = d ? shard.count[t + 1] : (t ? rows : 0);
            const Index from = shard.begin[d ? t + 1 : t - (t > 0)];
            float* now = kept.gates[d] + shard.begin[t] * gates;
            for (Index row = 0; row < rows; row++) {
                float *g = now + row * gates, *of_h = d_h + row * hidden;
                const Index at = shard.begin[t] + row;
                if (has_outputs) {
                    const float* more = d_answered + at * width + d * hidden;
#pragma omp simd
                    for (Index j = 0; j < hidden; j++) of_h[j] += more[j];
                }
                const bool is_first = row >= going;
                if (l.cell == LSTM) {
                    const float* c = !is_first ? kept.cells[d] + (from + row) * hidden
                                     : l.c0    ? given(l.c0, layer, d, row)
                                               : nullptr;
                    if (c != nullptr)
                        lstm_back<true>(hidden, g, c, kept.tanh_of_cells[d] + at * hidden, of_h, d_c + row * hidden);
                    else
                        lstm_back<false>(hidden, g, nullptr, kept.tanh_of_cells[d] + at * hidden, of_h, d_c + row * hidden);
                } else if (l.cell == GRU) {
                    const float* h = !is_first ? outputs + (from + row) * width
                                     : l.h0    ? given(l.h0, layer, d, row)
                                               : nullptr;
                    if (h != nullptr)
                        gru_back<true>(hidden, g, recurrent + at * gates, h, kept.cells[d] + at * hidden, of_h);
                    else
                        gru_back<false>(hidden, g, recurrent + at * gates, nullptr, kept.cells[d] + at * hidden, of_h);
                } else {
                    const float* h = outputs + at * width;
                    if (l.cell == TANH) {
#pragma omp simd
                        for (Index j = 0; j < hidden; j++) g[j] = of_h[j] * (1.0f - h[j] * h[j]);
                    } else {
#pragma omp simd
                        for (Index j = 0; j < hidden; j++) g[j] = h[j] > 0.0f ? of_h[j] : 0.0f;
                    }
                }
            }
            const float* back = l.cell == GRU ? recurrent + shard.begin[t] * gates : now;
            multiply(going, hidden, gates, back, gates, panels, l.cell == GRU ? RESULT : ZEROS, d_h, hidden);
        }
    }

    // The gradients of the weights of one layer and direction.
    void weigh(Index layer, Index d) const {
        const Index gates = l.gates() * l.hidden, steps = shard.steps(), size = l.reads(layer);
        float* const* to = into.data() + 4 * (layer * l.directions + d);
        const float* own = saved.layers[layer].gates[d];
        const float* back = l.cell == GRU ? recurrent : own;
        multiply_transposed(gates, size, steps, own, gates, saved.read_by(l, layer), size, panels, to[0], size);
        const Before h = states_before(layer, d);
        if (h.steps > 0)
            multiply_transposed(gates, l.hidden, h.steps, back + h.first * gates, gates, h.states, h.ld, panels, to[1],
                                l.hidden);
        else
            std::memset(to[1], 0, sizeof(float) * gates * l.hidden);
        sum_rows(own, steps, gates, to[2]);
        if (l.cell == GRU)
            sum_rows(recurrent, steps, gates, to[3]);
        else
            std::memcpy(to[3], to[2], sizeof(float) * gates);
    }

    static void sum_rows(const float* from, Index rows, Index columns, float* to) {
        std::memset(to, 0, sizeof(float) * columns);
        for (Index row = 0; row < rows; row++) {
            const float* each = from + row * columns;
#pragma omp simd
            for (Index j = 0; j < columns; j++) to[j] += each[j];
        }
    }

    // The gradient of what a layer has read: what the layer below has answered.
    void pass_down(Index layer) const {
        const Index width = l.width();
        read_back(layer, d_read);
        if (!l.has_mask(layer - 1)) return;
        for (Index t = 0; t < shard.time; t++)
            for (Index row = 0; row < shard.count[t]; row++) {
                const float* factor = l.masks[layer - 1] + t * l.mask_step + shard.rows[row] * l.mask_row;
                float* each = d_read + (shard.begin[t] + row) * width;
#pragma omp simd
                for (Index j = 0; j < width; j++) each[j] *= factor[j];
            }
    }

    // The gradient of what a layer has read, (steps, reads): of all its directions together.
    void read_back(Index layer, float* to) const {
        const Index gates = l.gates() * l.hidden, size = l.reads(layer);
        for (Index d = 0; d < l.directions; d++) {
            lay_out(false, l.of(layer, d)[0], size, gates, size, panels);
            multiply(shard.steps(), size, gates, saved.layers[layer].gates[d], gates, panels, d > 0 ? RESULT : ZEROS, to, size);
        }
    }

    void to_input() const {
        const Index size = l.input;
        std::vector<float> packed(shard.steps() * size);
        read_back(0, packed.data());
        unpack(l, shard, packed.data(), size, l.d_x);
    }
};

// Adds the gradients of the other shards to those of the first, in order, so that the sum is the same each time.
void add_up(const Layers& l, const Plan& plan) {
    if (plan.gradients.empty()) return;
    in_threads(l.shards(), l.shards(), [&](Index number) {
        Index begin = 0;
        for (Index part = 0; part < Index(plan.sizes.size()); part++) {
            const Index size = plan.sizes[part];
            const Index from = size * number / l.shards(), to = size * (number + 1) / l.shards();
            float* sum = l.d_weights[part];
            for (Index other : plan.gradients) {
                const float* more = l.scratch + other + begin;
#pragma omp simd
                for (Index j = from; j < to; j++) sum[j] += more[j];
            }
            begin += padded(size);
        }
    });
}

// Calls work(column from, column up to) by all threads, and each thread has some of the columns that the head reads.
template <typename Work>
void by_columns(const Layers& l, const Work& work) {
    const Index shards = l.shards(), width = l.width();
    in_threads(shards, shards, [&](Index n) { work(width * n / shards, width * (n + 1) / shards); });
}

void pass_forwards(const Layers& l, const Plan& plan) {
    std::vector<Forward> shards;
    shards.reserve(l.shards());
    for (Index number = 0; number < l.shards(); number++) shards.emplace_back(l, plan, number);
    if (!l.has_norm()) {
        in_threads(l.shards(), l.shards(), [&](Index number) {
            shards[number].run();
            if (l.head != nullptr) shards[number].answer();
        });
        return;
    }
    in_threads(l.shards(), l.shards(), [&](Index number) { shards[number].run(); });
    std::vector<Piece> pooled;
    for (const Forward& shard : shards) pooled.push_back(shard.piece());
    by_columns(l, [&](Index from, Index to) {
        compute_statistics(*l.head->norm, plan.statistics_of(l), pooled, from, to);
    });
    *l.head->norm->batches += 1;
    in_threads(l.shards(), l.shards(), [&](Index number) { shards[number].answer(); });
}

void pass_backwards(const Layers& l, const Plan& plan) {
    std::vector<Backward> shards;
    shards.reserve(l.shards());
    for (Index number = 0; number < l.shards(); number++) shards.emplace_back(l, plan, number);
    if (l.has_norm()) {
        in_threads(l.shards(), l.shards(), [&](Index number) { shards[number].ask_head(); });
        std::vector<Piece> d_pooled;
        std::vector<const float*> normal;
        for (const Backward& shard : shards) d_pooled.push_back(shard.piece()), normal.push_back(shard.saved.normal);
        by_columns(l, [&](Index from, Index to) {
            compute_gradients(*l.head->norm, d_pooled, normal, l.width(), from, to);
        });
        in_threads(l.shards(), l.shards(), [&](Index number) { shards[number].run(); });
    } else {
        in_threads(l.shards(), l.shards(), [&](Index number) {
            if (l.head != nullptr) shards[number].ask_head();
            shards[number].run();
        });
    }
    add_up(l, plan);
}

}  // namespace

extern "C" {

void borrow(void* team_of_openmp) { parallel = reinterpret_cast<decltype(parallel)>(team_of_openmp); }

// How many numbers `saved` and `scratch` need.
void sizes(const Layers* l, Index* saved, Index* scratch) {
    const Plan plan(*l);
    *saved = plan.saved.back();
    *scratch = plan.scratch.back();
}

void forward(const Layers* l) { pass_forwards(*l, Plan(*l)); }

// Reads what forward has saved, and overwrites it.
void backward(const Layers* l) { pass_backwards(*l, Plan(*l)); }

// A whole update: a batch forwards, its loss, and backwards to the gradient of all weights, by which they are updated
// if the loss is finite. Without `u` the gradient is all. Gives how many numbers of `memory` that takes; where `room`
// is less, nothing was done. Gives -1 if the head has another number of rows than the loss.
Index train(Layers* l, Loss* loss, Update* u, float* memory, Index room) {
    const Plan plan(*l);
    if (loss->rows != plan.rows(*l)) return -1;
    const Index of_outputs = padded(loss->rows * loss->size), needed = plan.saved.back() + plan.scratch.back() + of_outputs;
    if (room < needed) return needed;
    Memory all(memory);
    l->saved = all.take(plan.saved.back());
    l->scratch = all.take(plan.scratch.back());
    loss->d_outputs = all.take(of_outputs);
    pass_forwards(*l, plan);
    compute(*loss);
    l->head->d_outputs = loss->d_outputs;
    pass_backwards(*l, plan);
    if (u != nullptr && std::isfinite(loss->loss)) apply(*u);
    return needed;
}

// Clips the gradient and updates the weights. Without a finite gradient it does nothing but tell the norm.
void update(Update* u) { apply(*u); }
}

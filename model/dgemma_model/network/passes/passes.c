/* Passes of a Qwen2 or Llama network on CPUs, over int8 weights; called from native.py, which describes the arguments.

A pass over a few tokens takes as long as reading the weights takes. So each weight is read once for all tokens, in the
order in which it lies in memory, and everything between two products is done while its data is in the cache.

Products: activations are rounded to integers with a scale for each token, weights are int8 with a scale for each row.
- With AMX, AVX-512 VNNI and AVX-VNNI, activations are unsigned bytes, and a second row holds what the first one rounded
  away.
- With AVX2 they are 16-bit integers of at most 12 bits, because products of bytes overflow there.
Integer sums are exact, and sums of floats are taken in one order. So a result does not depend on how many tokens or
threads there are, and instruction sets that take bytes give the same bits.

Compiled once for each instruction set. Nothing here allocates, and nothing outlives a call. */

#define _GNU_SOURCE /* syscall */
#include <immintrin.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#if defined(__AMX_INT8__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define BAND 16  /* rows of a matrix that lie together: [rows / 16][columns / 4][16][4] */
#define GROUP 4  /* columns of a row that lie together */
#define LINE 64  /* bytes that come from memory together */
#define CHUNK (640 << 10) /* bytes of digits that are multiplied by all blocks in turn: a part of the second cache */
#define PIECES 16 /* of a product for each thread: enough that they end together */
#define FEW 4 /* tokens that take no longer than waking a thread, in work between products */
#define MASKED -1e30f

#if defined(__AMX_INT8__)
typedef uint8_t Digit;
enum { ZERO = 128, TILE = 32, EVEN = 0, BANDS = 2, TOGETHER = 16, FLOATS = 16, LATE = 48 };
#elif defined(__AVX512VNNI__)
typedef uint8_t Digit;
enum { ZERO = 128, TILE = 6, EVEN = 1, BANDS = 4, TOGETHER = 16, FLOATS = 16 };
#elif defined(__AVXVNNI__)
typedef uint8_t Digit;
enum { ZERO = 128, TILE = 6, EVEN = 1, BANDS = 4, TOGETHER = 4, FLOATS = 8 }; /* 16 registers hold less */
#else
typedef int16_t Digit;
enum { ZERO = 0, TILE = 6, EVEN = 1, BANDS = 4, TOGETHER = 4, FLOATS = 8 };
#endif
enum { BLOCK = BANDS * BAND, HALF = BLOCK / 2 }; /* rows that are multiplied together */

typedef float Floats __attribute__((vector_size(4 * FLOATS))); /* a register */
enum { LANES = 16, PARTS = LANES / FLOATS, KEYS = 64, WIDEST_HEAD = 128 };

typedef struct {
    const int8_t *weights;
    const int32_t *sums; /* of the weights of each row */
    const float *scale, *bias; /* of each row; `bias` may be missing */
    int64_t rows, columns;
    int64_t digits; /* integers that each activation is rounded to: 1 or 2 */
    int64_t largest; /* the largest of them */
} Matrix;

typedef struct {
    const float *input_norm, *mlp_norm;
    Matrix qkv, out, gate_up, down;
} Layer;

typedef struct {
    int64_t layers, size, inner, heads, kv_heads, head_dim;
    float eps;
    const float *norm;
    const Layer *layer;
    Matrix head;
} Network;

typedef struct {
    const Network *network;
    float *x; /* [R, size], R = batch * tokens: in, the embeddings; out, the last hidden states */
    const float *cos, *sin; /* [R, head_dim]; sines of the first half of a head are negative */
    uint16_t *const *keys, *const *values; /* of each layer: bfloat16 [batch, kv_heads, capacity, head_dim] */
    const uint8_t *allowed; /* [batch or 1, tokens, before + tokens]: which keys are seen; all earlier ones if missing */
    int64_t allowed_stride; /* between rows of the batch: 0 where they share one */
    int64_t batch, tokens, before, capacity;
    float *wide; /* scratch [R, the longer of joined queries, keys and values, and of what goes into `down`] */
    float *attended; /* scratch [R, heads * head_dim] */
    Digit *digits; /* scratch [2 * R + 16, the longest row] */
    float *peaks; /* scratch [R] */
    const int64_t *kept; /* [kept_count]: layers before which the residual stream is copied */
    int64_t kept_count;
    float *states; /* [kept_count, R, size]: these copies */
} Pass;

typedef struct { /* see state_drafter.py; all matrices but `before` are in bands */
    const Network *network; /* its head has a row for each of the drafter's tokens */
    int64_t states;
    const float *state_norms, *places; /* [states, size] and [canvas, size] */
    Matrix fuse, after; /* [size, (states + 1) * size] and [tokens, rank] */
    const int8_t *before; /* [tokens + 1, rank] */
    const float *before_scale;
} Drafter;

typedef struct {
    const Drafter *drafter;
    Pass pass; /* over one canvas; `wide` [canvas, the drafter's tokens] */
    const float *states, *embedded; /* [states, size] and [size] */
    int64_t previous; /* of the drafter's tokens: the one before the canvas */
    float least; /* a draft ends where it is less likely to be right */
    int64_t choices; /* for each position */
    float *joined, *pairs; /* scratch [(states + 1) * size] and [the drafter's tokens] */
    int64_t *chosen, count; /* out: for `count` positions the `choices` likeliest of the drafter's tokens */
    float *likely; /* out: of each, the probability that it is right if the likeliest of each position before are */
} Draft;

typedef struct {
    float *values; /* [rows, columns]: in, scores; out, log-probabilities */
    int64_t rows, columns;
} Scores;

/* ------------------------------------------------------------------------------------------------ threads */

typedef struct Team Team;
typedef void (*Work)(Team *, int64_t number);

struct Team {
    /* Work goes in phases. A phase has pieces, which any thread takes; the first thread waits until all are done. A
       thread that the system does not run takes none, and so nothing waits for it within a pass. What threads write
       lies apart, because a line that one of them writes is lost to the others.
       phase << 48 | pieces << 24 | next piece: in one number, so that a piece is never taken from a phase that is over */
    _Alignas(LINE) _Atomic uint64_t ticket;
    _Alignas(LINE) _Atomic int64_t done;
    _Alignas(LINE) _Atomic int over;
    Work work;
    int64_t count, span; /* work is on numbers below `count`, `span` of them in a piece */
    const Pass *pass;
    Draft *draft;
    const Scores *scores;
    const Matrix *matrix, *following; /* `following` is the next one that is multiplied by, or missing */
    int64_t layer, token_rows;
    int64_t blocks, chunk; /* of `matrix`, and tokens that each of them is multiplied by at a time */
    float *result;
    int64_t result_stride;
    enum { WRITTEN, ADDED, GATED } manner; /* what becomes of products: GATED are silu(the first half) * the second */
    int64_t threads;
    const float *norm;
    _Atomic int64_t arrived;
};

static int take(Team *team, int64_t *piece) {
    uint64_t ticket = atomic_load_explicit(&team->ticket, memory_order_acquire);
    for (;;) {
        int64_t next = (int64_t)(ticket & 0xffffff), pieces = (int64_t)((ticket >> 24) & 0xffffff);
        if (next >= pieces) return 0;
        if (atomic_compare_exchange_weak_explicit(&team->ticket, &ticket, ticket + 1, memory_order_acquire,
                                                  memory_order_acquire)) {
            *piece = next;
            return 1;
        }
    }
}

static void work_on(Team *team) {
    int64_t piece, done = 0;
    for (; take(team, &piece); done++) {
        const int64_t first = piece * team->span, end = first + team->span;
        for (int64_t n = first; n < end && n < team->count; n++) team->work(team, n);
    }
    if (done) atomic_fetch_add_explicit(&team->done, done, memory_order_release);
}

/* Do `work` on all numbers below `count`, of which each thread takes `span` at a time. */
static void in_pieces(Team *team, Work work, int64_t count, int64_t span) {
    const int64_t pieces = (count + span - 1) / span;
    team->work = work;
    team->count = count;
    team->span = span;
    if (team->threads == 1 || pieces == 1) {
        for (int64_t n = 0; n < count; n++) work(team, n);
        return;
    }
    uint64_t phase = (atomic_load_explicit(&team->ticket, memory_order_relaxed) >> 48) + 1;
    atomic_store_explicit(&team->done, 0, memory_order_relaxed);
    atomic_store_explicit(&team->ticket, phase << 48 | (uint64_t)pieces << 24, memory_order_release);
    work_on(team);
    for (int spins = 0; atomic_load_explicit(&team->done, memory_order_acquire) < pieces; spins++) {
        _mm_pause();
        if (spins > 20000) sched_yield();
    }
}

static void help(Team *team) {
    for (int spins = 0; !atomic_load_explicit(&team->over, memory_order_acquire); spins++) {
        uint64_t before = atomic_load_explicit(&team->ticket, memory_order_relaxed);
        work_on(team);
        if (atomic_load_explicit(&team->ticket, memory_order_relaxed) != before) spins = 0;
        _mm_pause();
        if (spins > 20000) sched_yield();
    }
}

/* ------------------------------------------------------------------------------------------------ small functions */

static inline uint16_t narrowed(float value) { /* to the nearest, and the even one of two */
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline float exponential(float x) { /* relative error below 2e-7; a polynomial of r = x - n ln 2 */
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float n = __builtin_rintf(x * 1.44269504f);
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, 4);
    return p * power;
}

static inline float logarithm(float x) { /* of 1 and more, by Newton's method from the exponent of `x` */
    uint32_t bits;
    memcpy(&bits, &x, 4);
    float found = (float)((int32_t)(bits >> 23) - 127) * 0.693147181f;
    for (int step = 0; step < 4; step++) found += x * exponential(-found) - 1.0f;
    return found;
}

static inline Floats load(const float *x) {
    Floats floats;
    memcpy(&floats, x, sizeof floats);
    return floats;
}

static inline float root(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }

static void round_row(const float *x, int64_t columns, int64_t count, int64_t largest, Digit *digits, float *peak) {
    float most = 1e-30f;
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < columns; i++) {
        float size = __builtin_fabsf(x[i]);
        most = size > most ? size : most;
    }
    *peak = most;
    float factor = (float)largest / most;
    if (count == 1) {
#pragma omp simd
        for (int64_t i = 0; i < columns; i++) digits[i] = (Digit)((int32_t)__builtin_rintf(x[i] * factor) + ZERO);
        return;
    }
    Digit *second = digits + columns;
    float finer = 2.0f * (float)largest;
#pragma omp simd
    for (int64_t i = 0; i < columns; i++) {
        float scaled = x[i] * factor, first = __builtin_rintf(scaled);
        digits[i] = (Digit)((int32_t)first + ZERO);
        second[i] = (Digit)((int32_t)__builtin_rintf((scaled - first) * finer) + ZERO);
    }
}

static float norm_factor(const float *x, int64_t size, float eps) {
    Floats sums[PARTS] = {0};
    float lanes[LANES] = {0}, sum = 0;
    const int64_t rest = size % LANES;
    memcpy(lanes, x + size - rest, sizeof(float) * (size_t)rest);
    for (int part = 0; part < PARTS; part++) sums[part] = load(lanes + part * FLOATS) * load(lanes + part * FLOATS);
    for (int64_t i = 0; i + LANES <= size; i += LANES)
        for (int part = 0; part < PARTS; part++) sums[part] += load(x + i + part * FLOATS) * load(x + i + part * FLOATS);
    memcpy(lanes, sums, sizeof lanes);
    for (int lane = 0; lane < LANES; lane++) sum += lanes[lane];
    return 1.0f / root(sum / (float)size + eps);
}

/* ------------------------------------------------------------------------------------------------ products */

#if defined(__AVX512VNNI__)
#elif defined(__AVXVNNI__)
enum { ROWS = 8 }; /* whose weights for 4 columns fill a register */

static inline __m256i rows_of(const int8_t *weights) { return _mm256_loadu_si256((const __m256i *)weights); }

static inline __m256i four_of(const Digit *digits) {
    int32_t four;
    memcpy(&four, digits, sizeof four);
    return _mm256_set1_epi32(four);
}

/* As an instruction, like below. VEX: processors that have no AVX-512 know no other form of it. */
#define ADD_PRODUCTS(total, rows, digit) __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(total) : "x"(digit), "x"(rows))

static inline void store_rows(__m256i first, __m256i second, int32_t *sums) {
    _mm256_storeu_si256((__m256i *)sums, first);
    _mm256_storeu_si256((__m256i *)(sums + ROWS), second);
}
#else
enum { ROWS = 4 }; /* whose weights for 4 columns fill a register, in 16 bits */

static inline __m256i rows_of(const int8_t *weights) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)weights));
}

static inline __m256i four_of(const Digit *digits) {
    int64_t four;
    memcpy(&four, digits, sizeof four);
    return _mm256_set1_epi64x(four);
}

#define ADD_PRODUCTS(total, rows, digit)                             \
    do {                                                             \
        __m256i product;                                             \
        __asm__("vpmaddwd %2, %3, %1\n\tvpaddd %1, %0, %0"           \
                : "+x"(total), "=&x"(product)                        \
                : "x"(rows), "x"(digit));                            \
    } while (0)

static inline void store_rows(__m256i first, __m256i second, int32_t *sums) { /* each in two halves, whose sum it is */
    const __m256i whole = _mm256_permute4x64_epi64(_mm256_hadd_epi32(first, second), 0xd8);
    _mm256_storeu_si256((__m256i *)sums, whole);
}
#endif

typedef struct { /* the weights of a block; some may be missing */
    const int8_t *band[BANDS];
    int64_t columns;
} Block;

/* From memory, while others are multiplied by. (GCC drops calls of a function that does nothing else.) */
static inline __attribute__((always_inline)) void fetch(const int8_t *band, int64_t column) {
    if (band) _mm_prefetch(band + BAND * column, _MM_HINT_T1);
}

#if defined(__AMX_INT8__)
enum { TILE_ROWS = 16, TILE_BYTES = 64 };

typedef struct { /* how many rows and bytes of them each of AMX's registers has */
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} Tiles;

/* Columns that are multiplied by at once: as many of at most 64 as a row has a multiple of. */
static int64_t columns_together(int64_t columns) {
    int64_t together = TILE_BYTES;
    while (columns % together) together -= GROUP;
    return together;
}

static void begin_tiles(int64_t columns) {
    const int64_t together = columns_together(columns);
    Tiles tiles = {.palette = 1};
    for (int n = 0; n < 8; n++) { /* 0 to 3 are sums, 4 and 5 digits, 6 and 7 weights */
        tiles.rows[n] = (uint8_t)(n < 6 ? TILE_ROWS : together / GROUP);
        tiles.bytes[n] = (uint16_t)(n == 4 || n == 5 ? together : TILE_BYTES);
    }
    __asm__ volatile("ldtilecfg %0" : : "m"(tiles) : "memory"); /* the intrinsics do not say what memory they read */
}

static void end_tiles(void) { _tile_release(); }

/* Sums of 16 or 32 rows of digits with a block of weights. A band is a tile of weights as it lies in memory. Rows of
   digits beyond those that there are may hold anything, and so may their sums. */
static inline __attribute__((always_inline)) void tile(const int both, Block weights, const Digit *digits,
                                                       int64_t stride, int64_t columns, int32_t *sums, Block ahead) {
    const int64_t together = columns_together(columns);
    const Digit *further = digits + TILE_ROWS * stride;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0, next = 0; k < columns; k += together) {
        for (; next * columns < ahead.columns * (k + together); next += GROUP)
            for (int band = 0; band < BANDS; band++) fetch(ahead.band[band], next);
        _tile_loadd(4, digits + k, stride);
        _tile_loadd(6, weights.band[0] + BAND * k, TILE_BYTES);
        _tile_loadd(7, weights.band[1] + BAND * k, TILE_BYTES);
        _tile_dpbusd(0, 4, 6);
        _tile_dpbusd(1, 4, 7);
        if (both) {
            _tile_loadd(5, further + k, stride);
            _tile_dpbusd(2, 5, 6);
            _tile_dpbusd(3, 5, 7);
        }
    }
    _tile_stored(0, sums, sizeof(int32_t) * BLOCK);
    _tile_stored(1, sums + BAND, sizeof(int32_t) * BLOCK);
    if (both) {
        _tile_stored(2, sums + TILE_ROWS * BLOCK, sizeof(int32_t) * BLOCK);
        _tile_stored(3, sums + TILE_ROWS * BLOCK + BAND, sizeof(int32_t) * BLOCK);
    }
}

static void tile_of(int count, Block weights, const Digit *digits, int64_t stride, int64_t columns,
                    int32_t *sums, Block ahead) {
    if (count > TILE_ROWS)
        tile(1, weights, digits, stride, columns, sums, ahead);
    else
        tile(0, weights, digits, stride, columns, sums, ahead);
}
#else
static void begin_tiles(int64_t columns) { (void)columns; }
static void end_tiles(void) {}

/* Sums of some rows of digits with a block of 64 rows of weights: [count][64]. */
static inline __attribute__((always_inline)) void tile(const int count, Block weights, const Digit *digits,
                                                       int64_t stride, int64_t columns, int32_t *sums, Block ahead) {
#if defined(__AVX512VNNI__)
    __m512i total[TILE][4];
#pragma GCC unroll 6
    for (int t = 0; t < count; t++)
#pragma GCC unroll 4
        for (int part = 0; part < 4; part++) total[t][part] = _mm512_setzero_si512();
    for (int64_t k = 0; k < columns; k += GROUP) {
        __m512i weight[4];
#pragma GCC unroll 4
        for (int part = 0; part < 4; part++) fetch(ahead.band[part], k);
#pragma GCC unroll 4
        for (int part = 0; part < 4; part++) weight[part] = _mm512_loadu_si512(weights.band[part] + BAND * k);
#pragma GCC unroll 6
        for (int t = 0; t < count; t++) {
            int32_t four;
            memcpy(&four, digits + t * stride + k, 4);
            __m512i digit = _mm512_set1_epi32(four);
#pragma GCC unroll 4
            for (int part = 0; part < 4; part++) /* not by the intrinsic, around which GCC copies sums to and fro */
                __asm__("vpdpbusd %2, %1, %0" : "+v"(total[t][part]) : "v"(digit), "v"(weight[part]));
        }
    }
#pragma GCC unroll 6
    for (int t = 0; t < count; t++)
#pragma GCC unroll 4
        for (int part = 0; part < 4; part++) _mm512_storeu_si512(sums + t * BLOCK + 16 * part, total[t][part]);
#else
    const int parts = count > 2 ? 2 : 4, width = parts * ROWS, bands = width > BAND ? width / BAND : 1; /* at a time */
    for (int64_t row = 0; row < BLOCK; row += width, sums += width) {
        __m256i total[TILE][4];
#pragma GCC unroll 6
        for (int t = 0; t < count; t++)
#pragma GCC unroll 4
            for (int part = 0; part < parts; part++) total[t][part] = _mm256_setzero_si256();
        const int8_t *weight[2], *next[2];
#pragma GCC unroll 2
        for (int band = 0; band < bands; band++) {
            weight[band] = weights.band[row / BAND + band] + row % BAND * GROUP;
            next[band] = row % BAND == 0 ? ahead.band[row / BAND + band] : 0;
        }
        for (int64_t k = 0; k < columns; k += GROUP) {
            __m256i rows[4];
#pragma GCC unroll 2
            for (int band = 0; band < bands; band++) fetch(next[band], k);
#pragma GCC unroll 4
            for (int part = 0; part < parts; part++)
                rows[part] = rows_of(weight[part * ROWS / BAND] + part * ROWS % BAND * GROUP + BAND * k);
#pragma GCC unroll 6
            for (int t = 0; t < count; t++) {
                const __m256i digit = four_of(digits + t * stride + k);
#pragma GCC unroll 4
                for (int part = 0; part < parts; part++) ADD_PRODUCTS(total[t][part], rows[part], digit);
            }
        }
#pragma GCC unroll 6
        for (int t = 0; t < count; t++)
#pragma GCC unroll 2
            for (int part = 0; part < parts; part += 2)
                store_rows(total[t][part], total[t][part + 1], sums + t * BLOCK + ROWS * part);
    }
#endif
}

static void tile_of(int count, Block weights, const Digit *digits, int64_t stride, int64_t columns,
                    int32_t *sums, Block ahead) {
    switch (count) {
    case 1: tile(1, weights, digits, stride, columns, sums, ahead); break;
    case 2: tile(2, weights, digits, stride, columns, sums, ahead); break;
    case 3: tile(3, weights, digits, stride, columns, sums, ahead); break;
    case 4: tile(4, weights, digits, stride, columns, sums, ahead); break;
    case 5: tile(5, weights, digits, stride, columns, sums, ahead); break;
    case 6: tile(6, weights, digits, stride, columns, sums, ahead); break;
    }
}
#endif

/* What becomes of integer sums of a token with a block, and with its second digits. */
typedef struct {
    int32_t shift[BLOCK];
    float scale[BLOCK], bias[BLOCK], finer;
} Ending;

static void finish(const Ending *restrict ending, const int32_t *restrict sum, const int32_t *restrict second,
                   float peak, float *restrict value) {
    for (int r = 0; r < BLOCK; r++) value[r] = (float)(sum[r] - ending->shift[r]);
    if (second)
        for (int r = 0; r < BLOCK; r++) value[r] += ending->finer * (float)(second[r] - ending->shift[r]);
    for (int r = 0; r < BLOCK; r++) value[r] = value[r] * (peak * ending->scale[r]) + ending->bias[r];
}

static void hand_over(const float *restrict value, int manner, int64_t rows, float *restrict out) {
    if (manner == GATED)
        for (int r = 0; r < HALF; r++) out[r] = value[r] / (1.0f + exponential(-value[r])) * value[HALF + r];
    else if (manner == ADDED)
        for (int64_t r = 0; r < rows; r++) out[r] += value[r];
    else
        memcpy(out, value, sizeof(float) * (size_t)rows);
}

static int is_gated(const Team *team, const Matrix *matrix) { /* half of a block are gates, half what they let through */
    const Network *network = team->pass->network;
    return network->layers && matrix == &network->layer[team->layer].gate_up;
}

static Block block_of(const Team *team, const Matrix *matrix, int64_t block) {
    const int gated = is_gated(team, matrix);
    const int64_t columns = matrix->columns, between = gated ? matrix->rows / 2 : HALF;
    const int8_t *first = matrix->weights + block * (gated ? HALF : BLOCK) * columns;
    const int8_t *second = first + between * columns;
    Block weights = {.columns = columns};
    for (int band = 0; band < BANDS; band++)
        weights.band[band] = (band < BANDS / 2 ? first : second) + band % (BANDS / 2) * BAND * columns;
    return weights;
}

/* The weights that this thread will probably be the next to read, at the end of a product those of the next one. */
static Block block_ahead(const Team *team, int64_t number) {
    int64_t next = number + 1;
    if (next % team->span == 0) next += team->span * (team->threads - 1);
    if (next < team->count) return block_of(team, team->matrix, next % team->blocks);
    return team->following ? block_of(team, team->following, next - team->count) : (Block){{0}};
}

#if defined(__AMX_INT8__)
/* What of a block is fetched after the tiles, while tokens are finished: `LATE` columns during each of some tokens, and
   half of the block at most. It is taken off `block`. Otherwise memory waits meanwhile. */
static Block taken_late(Block *block, int64_t tokens) {
    Block late = *block;
    const int64_t half = block->columns / 2 / GROUP * GROUP;
    late.columns = LATE * tokens < half ? LATE * tokens : half;
    block->columns -= late.columns;
    for (int band = 0; band < BANDS; band++)
        if (late.band[band]) late.band[band] += BAND * block->columns;
    return late;
}

static void fetch_late(Block *late) {
    for (int64_t column = 0; column < LATE && late->columns > 0; column += GROUP, late->columns -= GROUP)
        for (int band = 0; band < BANDS; band++) {
            fetch(late->band[band], 0);
            if (late->band[band]) late->band[band] += BAND * GROUP;
        }
}
#else
static Block taken_late(Block *block, int64_t tokens) { return (Block){{0}}; }
static void fetch_late(Block *late) {}
#endif

/* What of a block is fetched during one of some tiles. */
static Block share_of(Block block, int64_t tile, int64_t tiles) {
#if defined(__AMX_INT8__)
    const int64_t columns = block.columns / tiles / GROUP * GROUP;
    for (int64_t band = 0; band < BANDS; band++)
        if (block.band[band]) block.band[band] += BAND * columns * tile;
    block.columns = columns;
#else
    const int64_t shares = tiles < 2 ? 1 : tiles < 4 ? 2 : 4;
    for (int64_t band = 0; band < BANDS; band++)
        if (band % shares != tile) block.band[band] = 0;
#endif
    return block;
}

static void multiply_block(Team *team, int64_t number) { /* a block by a chunk of the tokens */
    const Matrix *matrix = team->matrix;
    const Pass *pass = team->pass;
    const int gated = is_gated(team, matrix);
    const int64_t columns = matrix->columns, count = matrix->digits, most = TILE / count;
    const int64_t block = number % team->blocks, begin = number / team->blocks * team->chunk;
    const int64_t end = begin + team->chunk < team->token_rows ? begin + team->chunk : team->token_rows;
    const int64_t first = block * (gated ? HALF : BLOCK), second = gated ? first + matrix->rows / 2 : first + HALF;
    const int64_t rows = gated ? HALF : matrix->rows - first < BLOCK ? matrix->rows - first : BLOCK; /* of the result */
    _Alignas(LINE) int32_t sums[TILE * BLOCK];
    Ending ending = {.finer = 0.5f / (float)matrix->largest};
    for (int r = 0; r < BLOCK; r++) {
        const int64_t row = r < HALF ? first + r : second + r - HALF;
        if (row >= matrix->rows) break;
        ending.shift[r] = ZERO * matrix->sums[row];
        ending.scale[r] = matrix->scale[row] / (float)matrix->largest;
        ending.bias[r] = matrix->bias ? matrix->bias[row] : 0.0f;
    }
    const int64_t tiles = (end - begin + most - 1) / most, step = EVEN ? (end - begin + tiles - 1) / tiles : most;
    const Block weights = block_of(team, matrix, block);
    Block ahead = block_ahead(team, number), late = taken_late(&ahead, end - begin);
    begin_tiles(columns);
    for (int64_t tile = 0, token = begin; token < end; tile++, token += step) {
        const int64_t tokens = end - token < step ? end - token : step;
        tile_of((int)(tokens * count), weights, pass->digits + token * count * columns, columns, columns, sums,
                share_of(ahead, tile, tiles));
        for (int64_t t = 0; t < tokens; t++) {
            const int32_t *sum = sums + t * count * BLOCK;
            fetch_late(&late);
            float value[BLOCK], *out = team->result + (token + t) * team->result_stride + first;
            finish(&ending, sum, count == 2 ? sum + BLOCK : 0, pass->peaks[token + t], value);
            if (rows == BLOCK)
                hand_over(value, team->manner, BLOCK, out);
            else
                hand_over(value, team->manner, rows, out);
        }
    }
    end_tiles();
}

/* To `team->result`, for which `manner` tells how; `following` is the next matrix that is multiplied by, or missing. */
static void multiply(Team *team, const Matrix *matrix, float *result, int64_t stride, int manner,
                     const Matrix *following) {
    if (!team->token_rows) return;
    team->matrix = matrix;
    team->following = following;
    team->result = result;
    team->result_stride = stride;
    team->manner = manner;
    const int64_t together = is_gated(team, matrix) ? 2 * HALF : BLOCK;
    const int64_t fit = CHUNK / (int64_t)sizeof(Digit) / (matrix->digits * matrix->columns) / (TILE / matrix->digits);
    team->chunk = (fit ? fit : 1) * (TILE / matrix->digits);
    team->blocks = (matrix->rows + together - 1) / together;
    const int64_t count = team->blocks * ((team->token_rows + team->chunk - 1) / team->chunk);
    const int64_t span = count / (PIECES * team->threads);
    in_pieces(team, multiply_block, count, span ? span : 1);
}

/* ------------------------------------------------------------------------------------------------ between products */

static void norm_row(Team *team, int64_t row) { /* the digits of the norm of a row of `x` */
    const Pass *pass = team->pass;
    int64_t size = pass->network->size;
    const float *x = pass->x + row * size, *weight = team->norm;
    float *normed = pass->attended + row * team->result_stride, factor = norm_factor(x, size, pass->network->eps);
#pragma omp simd
    for (int64_t i = 0; i < size; i++) normed[i] = x[i] * factor * weight[i];
    const Matrix *next = team->matrix;
    round_row(normed, size, next->digits, next->largest, pass->digits + row * next->digits * size, pass->peaks + row);
}

static void norms(Team *team, const float *weight, const Matrix *next) {
    const Network *network = team->pass->network;
    int64_t queries = network->heads * network->head_dim;
    team->norm = weight;
    team->matrix = next;
    team->result_stride = queries > network->size ? queries : network->size;
    in_pieces(team, norm_row, team->token_rows, FEW);
}

static void rotate(const float *restrict x, const float *restrict cos, const float *restrict sin, int64_t size,
                   float *restrict rotated) {
    int64_t half = size / 2;
    for (int64_t i = 0; i < half; i++) {
        rotated[i] = x[i] * cos[i] + x[i + half] * sin[i];
        rotated[i + half] = x[i + half] * cos[i + half] + x[i] * sin[i + half];
    }
}

static void place_row(Team *team, int64_t row) { /* rotate a token's queries; write its keys and values to the cache */
    const Pass *pass = team->pass;
    const Network *network = pass->network;
    int64_t size = network->head_dim, batch = row / pass->tokens, at = pass->before + row % pass->tokens;
    const float *cos = pass->cos + row * size, *sin = pass->sin + row * size;
    float *joined = pass->wide + row * network->layer[team->layer].qkv.rows, rotated[size];
    for (int64_t head = 0; head < network->heads + network->kv_heads; head++) {
        float *x = joined + head * size;
        rotate(x, cos, sin, size, rotated);
        if (head < network->heads) {
            memcpy(x, rotated, sizeof(float) * (size_t)size);
            continue;
        }
        int64_t place = ((batch * network->kv_heads + head - network->heads) * pass->capacity + at) * size;
        uint16_t *key = pass->keys[team->layer] + place, *value = pass->values[team->layer] + place;
        const float *kept = x + network->kv_heads * size;
        for (int64_t i = 0; i < size; i++) key[i] = narrowed(rotated[i]);
        for (int64_t i = 0; i < size; i++) value[i] = narrowed(kept[i]);
    }
}

static void widen(const uint16_t *stored, int64_t count, float *values) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits = (uint32_t)stored[i] << 16;
        memcpy(values + i, &bits, 4);
    }
}

/* Attention of 16 queries that share a key head, a lane for each; queries of heads of a token, then of the next token.
   Keys are taken some at a time, and what was found is scaled down when a higher score comes. */
static void attend(Team *team, int64_t piece) {
    const Pass *pass = team->pass;
    const Network *network = pass->network;
    const int64_t size = network->head_dim, group = network->heads / network->kv_heads, tokens = pass->tokens;
    const int64_t pieces = (tokens * group + LANES - 1) / LANES, length = pass->before + tokens;
    const int64_t first = piece % pieces * LANES, kv = piece / pieces % network->kv_heads;
    const int64_t batch = piece / pieces / network->kv_heads, stride = network->layer[team->layer].qkv.rows;
    const int64_t place = (batch * network->kv_heads + kv) * pass->capacity * size;
    const uint16_t *keys = pass->keys[team->layer] + place, *values = pass->values[team->layer] + place;
    const float scale = 1.0f / root((float)size);
    float queries[WIDEST_HEAD][LANES], found[WIDEST_HEAD][LANES], scores[KEYS][LANES], block[KEYS * WIDEST_HEAD];
    float most[LANES], total[LANES] = {0};
    int64_t all_see = length, any_sees = 0;
    int32_t seen[LANES];
    const uint8_t *allowed[LANES];
    memset(queries, 0, sizeof queries);
    memset(found, 0, sizeof found);
    const int lanes = tokens * group - first < LANES ? (int)(tokens * group - first) : LANES;
    for (int lane = 0; lane < LANES; lane++) {
        const int64_t token = (first + (lane < lanes ? lane : 0)) / group, head = (first + lane) % group;
        const float *query = pass->wide + (batch * tokens + token) * stride + (kv * group + head) * size;
        const int64_t last = pass->allowed ? length : pass->before + token + 1;
        seen[lane] = (int32_t)last;
        allowed[lane] = pass->allowed ? pass->allowed + batch * pass->allowed_stride + token * length : 0;
        all_see = last < all_see ? last : all_see;
        any_sees = last > any_sees ? last : any_sees;
        most[lane] = MASKED;
        if (lane < lanes)
            for (int64_t i = 0; i < size; i++) queries[i][lane] = query[i] * scale;
    }
    for (int64_t start = 0; start < any_sees; start += KEYS) {
        int all_allowed = 1;
        const int some = any_sees - start < KEYS ? (int)(any_sees - start) : KEYS;
        widen(keys + start * size, some * size, block);
        for (int n = 0; n < some; n += TOGETHER) { /* beyond `some` there is room for what is not used */
            Floats sum[TOGETHER][PARTS] = {0};
            for (int64_t i = 0; i < size; i++) {
#pragma GCC unroll 16
                for (int k = 0; k < TOGETHER; k++)
#pragma GCC unroll 2
                    for (int part = 0; part < PARTS; part++)
                        sum[k][part] += load(queries[i] + part * FLOATS) * block[(n + k) * size + i];
            }
#pragma GCC unroll 16
            for (int k = 0; k < TOGETHER; k++) memcpy(scores[n + k], sum[k], sizeof sum[k]);
        }
        for (int lane = 0; pass->allowed && lane < lanes && all_allowed; lane++)
            all_allowed = !memchr(allowed[lane] + start, 0, (size_t)some);
        if (!all_allowed)
            for (int n = 0; n < some; n++)
                for (int lane = 0; lane < LANES; lane++)
                    scores[n][lane] = allowed[lane][start + n] ? scores[n][lane] : MASKED;
        else if (!pass->allowed && start + some > all_see)
            for (int n = 0; n < some; n++)
#pragma omp simd
                for (int lane = 0; lane < LANES; lane++)
                    scores[n][lane] = (int32_t)start + n < seen[lane] ? scores[n][lane] : MASKED;
        float kept[LANES];
        memcpy(kept, most, sizeof kept);
        for (int n = 0; n < some; n++)
#pragma omp simd
            for (int lane = 0; lane < LANES; lane++)
                most[lane] = scores[n][lane] > most[lane] ? scores[n][lane] : most[lane];
#pragma omp simd
        for (int lane = 0; lane < LANES; lane++) {
            kept[lane] = exponential(kept[lane] - most[lane]);
            total[lane] *= kept[lane];
        }
        for (int n = 0; n < some; n++)
#pragma omp simd
            for (int lane = 0; lane < LANES; lane++) {
                scores[n][lane] = exponential(scores[n][lane] - most[lane]);
                total[lane] += scores[n][lane];
            }
        widen(values + start * size, some * size, block);
        for (int64_t i = 0; i < size; i += TOGETHER) {
            Floats sum[TOGETHER][PARTS];
#pragma GCC unroll 16
            for (int k = 0; k < TOGETHER; k++)
#pragma GCC unroll 2
                for (int part = 0; part < PARTS; part++)
                    sum[k][part] = load(found[i + k] + part * FLOATS) * load(kept + part * FLOATS);
            for (int n = 0; n < some; n++) {
                const float *value = block + n * size + i;
#pragma GCC unroll 16
                for (int k = 0; k < TOGETHER; k++)
#pragma GCC unroll 2
                    for (int part = 0; part < PARTS; part++)
                        sum[k][part] += load(scores[n] + part * FLOATS) * value[k];
            }
#pragma GCC unroll 16
            for (int k = 0; k < TOGETHER; k++) memcpy(found[i + k], sum[k], sizeof sum[k]);
        }
    }
    const int64_t width = network->heads * size > network->size ? network->heads * size : network->size;
    for (int lane = 0; lane < lanes; lane++) {
        const int64_t token = (first + lane) / group, head = (first + lane) % group;
        const float share = 1.0f / total[lane];
        float *out = pass->attended + (batch * tokens + token) * width + (kv * group + head) * size;
        for (int64_t i = 0; i < size; i++) out[i] = found[i][lane] * share;
    }
}

static void round_attended(Team *team, int64_t row) { /* the digits of what a token attended to */
    const Pass *pass = team->pass;
    const Network *network = pass->network;
    const Matrix *out = &network->layer[team->layer].out;
    const int64_t columns = network->heads * network->head_dim;
    const int64_t width = columns > network->size ? columns : network->size;
    round_row(pass->attended + row * width, columns, out->digits, out->largest,
              pass->digits + row * out->digits * columns, pass->peaks + row);
}

static void round_gated(Team *team, int64_t row) { /* the digits of what the down projection takes */
    const Pass *pass = team->pass;
    const Matrix *down = &pass->network->layer[team->layer].down;
    const int64_t inner = pass->network->inner;
    round_row(pass->wide + row * inner, inner, down->digits, down->largest, pass->digits + row * down->digits * inner,
              pass->peaks + row);
}

/* ------------------------------------------------------------------------------------------------ passes */

static int64_t lanes_of(const Pass *pass) { /* pieces of attention for each key head */
    return (pass->tokens * (pass->network->heads / pass->network->kv_heads) + LANES - 1) / LANES;
}

static void run_layers(Team *team) {
    const Pass *pass = team->pass;
    const Network *network = pass->network;
    team->token_rows = pass->batch * pass->tokens;
    for (team->layer = 0; team->layer < network->layers; team->layer++) {
        const Layer *layer = network->layer + team->layer;
        const Matrix *after = team->layer + 1 < network->layers ? &layer[1].qkv : &network->head;
        const size_t numbers = (size_t)(team->token_rows * network->size);
        for (int64_t n = 0; n < pass->kept_count; n++)
            if (pass->kept[n] == team->layer) memcpy(pass->states + (size_t)n * numbers, pass->x, sizeof(float) * numbers);
        norms(team, layer->input_norm, &layer->qkv);
        multiply(team, &layer->qkv, pass->wide, layer->qkv.rows, WRITTEN, &layer->out);
        in_pieces(team, place_row, team->token_rows, FEW);
        in_pieces(team, attend, pass->batch * network->kv_heads * lanes_of(pass), 1);
        in_pieces(team, round_attended, team->token_rows, FEW);
        multiply(team, &layer->out, pass->x, network->size, ADDED, &layer->gate_up);
        norms(team, layer->mlp_norm, &layer->gate_up);
        multiply(team, &layer->gate_up, pass->wide, network->inner, GATED, &layer->down);
        in_pieces(team, round_gated, team->token_rows, 1);
        multiply(team, &layer->down, pass->x, network->size, ADDED, after);
    }
    for (int64_t row = 0; row < team->token_rows; row++) {
        float *x = pass->x + row * network->size, factor = norm_factor(x, network->size, network->eps);
        for (int64_t i = 0; i < network->size; i++) x[i] *= factor * network->norm[i];
    }
}

static void score_tokens(Team *team) {
    const Pass *pass = team->pass;
    const Matrix *head = &pass->network->head;
    team->token_rows = pass->tokens;
    for (int64_t row = 0; row < pass->tokens; row++)
        round_row(pass->x + row * head->columns, head->columns, head->digits, head->largest,
                  pass->digits + row * head->digits * head->columns, pass->peaks + row);
    multiply(team, head, pass->wide, head->rows, WRITTEN, 0);
}

static void normalise_row(Team *team, int64_t row) {
    const int64_t columns = team->scores->columns, rest = columns % LANES;
    float *x = team->scores->values + row * columns, lanes[LANES], most = x[0], sum = 0;
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < columns; i++) most = x[i] > most ? x[i] : most;
    for (int lane = 0; lane < LANES; lane++) lanes[lane] = lane < rest ? exponential(x[columns - rest + lane] - most) : 0;
    for (int64_t i = 0; i + LANES <= columns; i += LANES)
#pragma omp simd
        for (int lane = 0; lane < LANES; lane++) lanes[lane] += exponential(x[i + lane] - most);
    for (int lane = 0; lane < LANES; lane++) sum += lanes[lane];
    most += logarithm(sum);
    for (int64_t i = 0; i < columns; i++) x[i] -= most;
}

static void normalise(Team *team) { in_pieces(team, normalise_row, team->scores->rows, 1); }

static void fuse_states(Team *team) { /* the canvas, from the writer's states and the embedding of its latest token */
    const Drafter *drafter = team->draft->drafter;
    const Pass *pass = team->pass;
    const int64_t size = pass->network->size, states = drafter->states, columns = (states + 1) * size;
    const Matrix *fuse = &drafter->fuse;
    float *joined = team->draft->joined;
    for (int64_t state = 0; state < states; state++) {
        const float *x = team->draft->states + state * size, factor = norm_factor(x, size, pass->network->eps);
        for (int64_t i = 0; i < size; i++) joined[state * size + i] = x[i] * factor * drafter->state_norms[state * size + i];
    }
    memcpy(joined + states * size, team->draft->embedded, sizeof(float) * (size_t)size);
    round_row(joined, columns, fuse->digits, fuse->largest, pass->digits, pass->peaks);
    team->token_rows = 1;
    multiply(team, fuse, pass->wide, size, WRITTEN, &pass->network->layer[0].qkv);
    const float *stream = team->draft->states + (states - 2) * size; /* before the last of the layers that it is kept of */
    for (int64_t row = 0; row < pass->tokens; row++)
        for (int64_t i = 0; i < size; i++)
            pass->x[row * size + i] = stream[i] + pass->wide[i] + drafter->places[row * size + i];
}

static void choose(Team *team) { /* the best tokens of each position, given the best one before it */
    Draft *draft = team->draft;
    const Drafter *drafter = draft->drafter;
    const Pass *pass = team->pass;
    const Matrix *after = &drafter->after;
    const int64_t all = after->rows, rank = after->columns;
    float chance = 1.0f, *said = draft->pairs;
    int64_t token = draft->previous, row = 0;
    team->token_rows = 1;
    for (; row < pass->tokens && chance >= draft->least; row++) {
        const float *scores = pass->wide + row * all;
        float before[rank], first = 0, sum = 0;
        for (int64_t i = 0; i < rank; i++) before[i] = drafter->before_scale[token] * drafter->before[token * rank + i];
        round_row(before, rank, after->digits, after->largest, pass->digits, pass->peaks);
        multiply(team, after, said, all, WRITTEN, after);
        for (int64_t i = 0; i < all; i++) said[i] += scores[i];
        for (int64_t choice = 0; choice < draft->choices; choice++) {
            float most = MASKED;
#pragma omp simd reduction(max : most)
            for (int64_t i = 0; i < all; i++) most = said[i] > most ? said[i] : most;
            int64_t best = 0;
            while (best + 1 < all && said[best] != most) best++;
            if (choice == 0) {
                first = most;
#pragma omp simd reduction(+ : sum)
                for (int64_t i = 0; i < all; i++) sum += exponential(said[i] - most);
            }
            draft->chosen[row * draft->choices + choice] = best;
            draft->likely[row * draft->choices + choice] = exponential(most - first) / sum;
            said[best] = MASKED;
        }
        token = draft->chosen[row * draft->choices];
        chance *= draft->likely[row * draft->choices];
    }
    draft->count = row;
}

static void write_draft(Team *team) {
    fuse_states(team);
    run_layers(team);
    score_tokens(team);
    choose(team);
}

typedef struct {
    Team *team;
    void (*run)(Team *);
} Job;

static void join(void *argument) {
    Job *job = argument;
    if (atomic_fetch_add(&job->team->arrived, 1) > 0) {
        help(job->team);
        return;
    }
    job->run(job->team);
    atomic_store_explicit(&job->team->over, 1, memory_order_release);
}

/* Whether this process may use the instructions: 1 or 0. Linux gives AMX's registers only to those who ask. */
int64_t dgemma_ready(void) {
#if defined(__AMX_INT8__)
    const long ask = 0x1023, tiles = 18; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
    return syscall(SYS_arch_prctl, ask, tiles) == 0;
#else
    return 1;
#endif
}

/* `parallel` is OpenMP's `GOMP_parallel`, of the library that torch uses, so that its threads are used; or missing. */
typedef void (*Parallel)(void (*)(void *), void *, unsigned threads, unsigned flags);

static void run(Team team, void (*work)(Team *), Parallel parallel, int64_t threads) {
    Job job = {&team, work};
    team.threads = parallel ? threads : 1;
    if (team.threads <= 1)
        work(&team);
    else
        parallel(join, &job, (unsigned)team.threads, 0);
}

/* The layers and the last norm: `pass->x` from embeddings to hidden states; keys and values go to the cache. */
void dgemma_run(const Pass *pass, Parallel parallel, int64_t threads) {
    run((Team){.pass = pass}, run_layers, parallel, threads);
}

/* The head over hidden states `pass->x` [tokens, size]: `pass->wide` [tokens, head.rows]. There may be no layers. */
void dgemma_score(const Pass *pass, Parallel parallel, int64_t threads) {
    run((Team){.pass = pass}, score_tokens, parallel, threads);
}

/* Scores into log-probabilities. */
void dgemma_normalise(const Scores *scores, Parallel parallel, int64_t threads) {
    run((Team){.scores = scores}, normalise, parallel, threads < scores->rows ? threads : scores->rows);
}

/* A draft of at most `pass.tokens` tokens after those that are cached: `chosen`, `likely` and their `count`. */
void dgemma_draft(Draft *draft, Parallel parallel, int64_t threads) {
    run((Team){.pass = &draft->pass, .draft = draft}, write_draft, parallel, threads);
}

const char dgemma_source[] = SOURCE; /* the hash of this file */
const int64_t dgemma_digit_bytes = sizeof(Digit);

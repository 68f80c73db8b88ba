--- Ghost text drawn by the plugin itself, for Neovim before 0.12.
local server = require('dgemma.server')
local suggestion = require('dgemma.suggestion')

---@class dgemma.Ghost : dgemma.Display
local M = { asks = true }

local namespace = vim.api.nvim_create_namespace('dgemma')

local GHOST, HINT = 'DgemmaGhost', 'DgemmaHint'

--- Tabs as the blanks that they will be: virtual text does not know where it begins.
---@param text string
---@param column integer where it begins, in cells
---@return string
local function expanded(text, column)
  local blanks = text:gsub('()\t', function(at)
    local before = column + vim.fn.strdisplaywidth(text:sub(1, at - 1):gsub('\t', ''), 0)
    return (' '):rep(vim.bo.tabstop - before % vim.bo.tabstop)
  end)
  return blanks
end

---@param bufnr integer
---@param line dgemma.Suggestion
---@param hint? string
local function draw_line(bufnr, line, hint)
  for _, piece in ipairs(suggestion.pieces(line)) do
    local column = vim.fn.strdisplaywidth(line.before .. line.covered:sub(1, piece.column - #line.before))
    vim.api.nvim_buf_set_extmark(bufnr, namespace, line.row, piece.column, {
      virt_text = { { expanded(piece.text, column), GHOST } },
      virt_text_pos = 'inline',
    })
  end
  if hint then
    vim.api.nvim_buf_set_extmark(bufnr, namespace, line.row, 0, { virt_text = { { hint, HINT } } })
  end
end

--- What follows the cursor goes below with the last line: it is covered up where it is.
---@param bufnr integer
---@param block dgemma.Suggestion of several lines
---@param hint? string
local function draw_block(bufnr, block, hint)
  local lines = vim.split(block.text, '\n', { plain = true })
  local column = vim.fn.strdisplaywidth(block.before)
  local first = expanded(lines[1], column)
  local hidden = vim.fn.strdisplaywidth(block.covered .. block.after, column)
  local blanks = (' '):rep(hidden - vim.fn.strdisplaywidth(first, column))
  local below = {}
  for index = 2, #lines do
    below[index - 1] = { { expanded(lines[index], 0), GHOST } }
  end
  table.insert(below[#below], { expanded(block.after, vim.fn.strdisplaywidth(lines[#lines])) })
  if hint then
    table.insert(below[#below], { ' ' .. hint, HINT })
  end
  vim.api.nvim_buf_set_extmark(bufnr, namespace, block.row, #block.before, {
    virt_text = { { first .. blanks, GHOST } },
    virt_text_pos = hidden > 0 and 'overlay' or 'inline',
    virt_lines = below,
  })
end

---@param bufnr integer
---@param shown dgemma.Suggestion
---@param hint? string
function M.draw(bufnr, _, shown, hint)
  M.clear(bufnr)
  local draw = shown.text:find('\n') and draw_block or draw_line
  draw(bufnr, shown, hint)
end

---@param bufnr integer
function M.clear(bufnr)
  vim.api.nvim_buf_clear_namespace(bufnr, namespace, 0, -1)
end

--- What fits is drawn at once, or not at all.
function M.shows(bufnr)
  return #vim.api.nvim_buf_get_extmarks(bufnr, namespace, 0, -1, { limit = 1 }) > 0
end

function M.request(client, ...)
  return server.call(client, 'request', ...)
end

--- Colours that a colour scheme may replace.
function M.define_highlights()
  local of_neovim = vim.fn.hlexists('ComplHint') == 1
  vim.api.nvim_set_hl(0, GHOST, { default = true, link = of_neovim and 'ComplHint' or 'NonText' })
  vim.api.nvim_set_hl(0, HINT, { default = true, link = of_neovim and 'ComplHintMore' or 'MoreMsg' })
end

return M

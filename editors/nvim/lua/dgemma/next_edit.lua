--- The next place to change after the user's last edit, in normal mode: shown as a diff in the text, gone to, made.
--- Lines and columns count from 0, columns are bytes.
local config = require('dgemma.config')
local inline = require('dgemma.inline')
local server = require('dgemma.server')

local M = {}

local METHOD = 'textDocument/copilotInlineEdit'
local REMOVED, ADDED, HINT = 'DgemmaRemoved', 'DgemmaAdded', 'DgemmaHint'

--- One request for a burst of commands.
local BURST_MS = 20

local namespace = vim.api.nvim_create_namespace('dgemma_next_edit')

---@class dgemma.NextEdit
---@field tick integer the buffer's, for which it is
---@field first integer[] row and column
---@field last integer[]
---@field lines string[] the lines to put there

---@class dgemma.NextEdits
---@field sequence integer the newest request; answers to older ones are dropped
---@field edit? dgemma.NextEdit
---@field timer? uv.uv_timer_t
---@field mapping? table what the key was in this buffer before ours

---@type table<integer, dgemma.NextEdits> by buffer
local buffers = {}

---@param bufnr integer
---@return boolean
local function is_wanted(bufnr)
  return inline.obstacle(bufnr) == nil
    and vim.api.nvim_get_current_buf() == bufnr
    and vim.api.nvim_get_mode().mode == 'n'
end

---@return integer[]
local function cursor()
  local row, column = unpack(vim.api.nvim_win_get_cursor(0))
  return { row - 1, column }
end

---@param place integer[]
---@param other integer[]
---@return boolean
local function is_before(place, other)
  return place[1] < other[1] or (place[1] == other[1] and place[2] < other[2])
end

---@param state dgemma.NextEdits
local function stop_timer(state)
  if state.timer and not state.timer:is_closing() then
    state.timer:close()
  end
  state.timer = nil
end

--- The key is ours while an edit is visible, and what it was before at any other time.
---@param bufnr integer
---@param state dgemma.NextEdits
local function map(bufnr, state)
  local lhs = config.options.keys.next_edit
  if lhs and not state.mapping then
    local mapping = vim.fn.maparg(lhs, 'n', false, true)
    state.mapping = mapping.buffer == 1 and mapping or {}
    vim.keymap.set('n', lhs, M.go_or_accept, { buffer = bufnr, desc = 'dgemma: next edit' })
  end
end

---@param bufnr integer
---@param state dgemma.NextEdits
local function unmap(bufnr, state)
  local mapping = state.mapping
  state.mapping = nil
  if not mapping or not vim.api.nvim_buf_is_loaded(bufnr) then
    return
  end
  vim.api.nvim_buf_call(bufnr, function()
    local lhs = config.options.keys.next_edit
    if lhs and vim.fn.maparg(lhs, 'n', false, true).desc == 'dgemma: next edit' then
      vim.keymap.del('n', lhs, { buffer = bufnr })
      if mapping.buffer == 1 then
        vim.fn.mapset('n', false, mapping)
      end
    end
  end)
end

--- Forget the edit and whatever was asked for.
---@param bufnr integer
function M.drop(bufnr)
  local state = buffers[bufnr]
  if not state then
    return
  end
  stop_timer(state)
  state.sequence, state.edit = state.sequence + 1, nil
  unmap(bufnr, state)
  if vim.api.nvim_buf_is_valid(bufnr) then
    vim.api.nvim_buf_clear_namespace(bufnr, namespace, 0, -1)
  end
end

--- The edit that the user sees.
---@param bufnr integer
---@return dgemma.NextEdit?
function M.visible(bufnr)
  local edit = buffers[bufnr] and buffers[bufnr].edit
  return edit and is_wanted(bufnr) and edit.tick == vim.api.nvim_buf_get_changedtick(bufnr) and edit or nil
end

---@param bufnr integer
---@param edit dgemma.NextEdit
local function draw(bufnr, edit)
  vim.api.nvim_buf_clear_namespace(bufnr, namespace, 0, -1)
  local first, last = edit.first, edit.last
  vim.api.nvim_buf_set_extmark(bufnr, namespace, first[1], first[2], {
    end_row = last[1],
    end_col = last[2],
    hl_group = REMOVED,
  })
  local below = {}
  for index = 2, #edit.lines do
    below[index - 1] = { { edit.lines[index], ADDED } }
  end
  vim.api.nvim_buf_set_extmark(bufnr, namespace, last[1], last[2], {
    virt_text = { { edit.lines[1], ADDED } },
    virt_text_pos = 'inline',
    virt_lines = #below > 0 and below or nil,
  })
  local is_in_sight = first[1] + 1 >= vim.fn.line('w0') and first[1] + 1 <= vim.fn.line('w$')
  local what = is_in_sight and 'next edit' or ('next edit in line %d'):format(first[1] + 1)
  local key = config.options.keys.next_edit
  local hint = key and (' %s: %s'):format(what, key) or ' ' .. what
  vim.api.nvim_buf_set_extmark(bufnr, namespace, is_in_sight and first[1] or cursor()[1], 0, { virt_text = { { hint, HINT } } })
end

---@param bufnr integer
---@param client vim.lsp.Client
---@param asked { sequence: integer, tick: integer, version: integer }
---@param result? { edits: table[] }
local function receive(bufnr, client, asked, result)
  local state, found = buffers[bufnr], type(result) == 'table' and (result.edits or {})[1]
  if not state or not found or asked.sequence ~= state.sequence or not is_wanted(bufnr) then
    return
  end
  local version = found.textDocument.version
  if asked.tick ~= vim.api.nvim_buf_get_changedtick(bufnr) or version ~= asked.version then
    return -- for a text that is gone
  end
  local function place(position)
    local line = vim.api.nvim_buf_get_lines(bufnr, position.line, position.line + 1, true)[1]
    return { position.line, inline.byte_column(client.offset_encoding)(line, position.character) }
  end
  state.edit = {
    tick = asked.tick,
    first = place(found.range.start),
    last = place(found.range['end']),
    lines = vim.split(found.text, '\r?\n'),
  }
  draw(bufnr, state.edit)
  map(bufnr, state)
end

---@param bufnr integer
local function ask(bufnr)
  local state, client = buffers[bufnr], inline.client(bufnr)
  if not state or not client or not is_wanted(bufnr) then
    return
  end
  local params = vim.lsp.util.make_position_params(0, client.offset_encoding)
  local asked = {
    sequence = state.sequence,
    tick = vim.api.nvim_buf_get_changedtick(bufnr),
    version = vim.lsp.util.buf_versions[bufnr],
  }
  ---@diagnostic disable-next-line: inject-field
  params.textDocument.version = asked.version
  server.call(client, 'request', METHOD, params, function(_, result)
    receive(bufnr, client, asked, result)
  end, bufnr)
end

--- After the text has changed, or the user has left insert mode.
---@param bufnr integer
function M.follow(bufnr)
  local state = buffers[bufnr]
  if state and not M.visible(bufnr) then
    M.drop(bufnr)
    state.timer = vim.defer_fn(function()
      ask(bufnr)
    end, BURST_MS)
  end
end

--- Go to the visible edit; make it, where the cursor is there already.
---@return boolean whether there was one
function M.go_or_accept()
  local bufnr = vim.api.nvim_get_current_buf()
  local edit = M.visible(bufnr)
  if not edit then
    return false
  end
  local first, last, lines, at = edit.first, edit.last, edit.lines, cursor()
  if is_before(at, first) or is_before(last, at) then
    vim.cmd("normal! m'") -- for the jump list
    vim.api.nvim_win_set_cursor(0, { first[1] + 1, first[2] })
    draw(bufnr, edit)
  else
    M.drop(bufnr)
    vim.api.nvim_buf_set_text(bufnr, first[1], first[2], last[1], last[2], lines)
    local column = (#lines == 1 and first[2] or 0) + #lines[#lines]
    vim.api.nvim_win_set_cursor(0, { first[1] + #lines, math.max(column - 1, 0) })
  end
  return true
end

--- Begin, where the user's settings for the server have it on.
---@param bufnr integer
function M.attach(bufnr)
  local settings = config.options.settings
  if (settings.dgemma or settings).next_edit == true then
    buffers[bufnr] = buffers[bufnr] or { sequence = 0 }
  end
end

---@param bufnr integer
function M.detach(bufnr)
  M.drop(bufnr)
  buffers[bufnr] = nil
end

--- Colours that a colour scheme may replace.
function M.define_highlights()
  vim.api.nvim_set_hl(0, REMOVED, { default = true, link = 'DiffDelete' })
  vim.api.nvim_set_hl(0, ADDED, { default = true, link = 'DiffAdd' })
end

return M

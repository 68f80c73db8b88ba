--- What is left to write at the cursor, and what becomes of it as the user types. Knows text, not buffers.
--- Columns and lengths are bytes.
local M = {}

---@class dgemma.Suggestion
---@field row integer 0-based
---@field before string the line up to the cursor
---@field covered string what follows the cursor and is replaced: `text` types all of it again, in order
---@field after string the line after that
---@field text string what to write at the cursor; lines are separated by "\n"
---@field command? lsp.Command to be sent to the server once all of it is accepted

---@class dgemma.Asked where and when a suggestion was asked for
---@field sequence integer
---@field tick integer
---@field row integer
---@field column integer
---@field line string

---@class dgemma.Edit replace the bytes from `first` to `last` of a line
---@field row integer
---@field first integer
---@field last integer
---@field lines string[]

---@param text string
---@return string[] characters
local function characters(text)
  local starts, found = vim.str_utf_pos(text), {}
  for index, start in ipairs(starts) do
    found[index] = text:sub(start, (starts[index + 1] or #text + 1) - 1)
  end
  return found
end

--- Where `text` types the characters of `covered` again: as late as possible, because closers close.
---@param covered string
---@param text string
---@return integer[]? offsets into `text`, one for each character of `covered`; nil where it does not
local function retyped_at(covered, text)
  local wanted, written, offsets = characters(covered), characters(text), {}
  local at, offset = #written, #text
  for index = #wanted, 1, -1 do
    while at > 0 and written[at] ~= wanted[index] do
      offset, at = offset - #written[at], at - 1
    end
    if at == 0 then
      return nil
    end
    offset, at = offset - #written[at], at - 1
    offsets[index] = offset
  end
  return offsets
end

---@param suggestion dgemma.Suggestion
---@return dgemma.Suggestion? nil where nothing is left, or what follows the cursor would be lost
local function if_it_fits(suggestion)
  if suggestion.text == suggestion.covered or not retyped_at(suggestion.covered, suggestion.text) then
    return nil
  end
  return suggestion
end

--- A suggestion out of a server's item; nil where it would change more than it types at the cursor.
---@param item lsp.InlineCompletionItem
---@param asked dgemma.Asked
---@param byte_column fun(line: string, character: integer): integer
---@return dgemma.Suggestion?
function M.from_item(item, asked, byte_column)
  if type(item.insertText) ~= 'string' then
    return nil -- a snippet: what it would write is not known before it is expanded
  end
  local text = item.insertText:gsub('\r\n?', '\n')
  local first, last = asked.column, asked.column
  if item.range then
    local from, to = item.range.start, item.range['end']
    if from.line ~= asked.row or to.line ~= asked.row then
      return nil
    end
    first, last = byte_column(asked.line, from.character), byte_column(asked.line, to.character)
  end
  local typed = asked.line:sub(first + 1, asked.column)
  if first > asked.column or last < asked.column or text:sub(1, #typed) ~= typed then
    return nil
  end
  return if_it_fits({
    row = asked.row,
    before = asked.line:sub(1, asked.column),
    covered = asked.line:sub(asked.column + 1, last),
    after = asked.line:sub(last + 1),
    text = text:sub(#typed + 1),
    command = item.command,
  })
end

--- What is left of a suggestion once the user has typed; nil where they typed something else.
---@param suggestion dgemma.Suggestion
---@param row integer
---@param column integer
---@param line string
---@return dgemma.Suggestion?
function M.rest(suggestion, row, column, line)
  local before, after = suggestion.before, suggestion.after
  local last = #line - #after
  if row ~= suggestion.row or column < #before or column > last then
    return nil
  end
  local typed = line:sub(#before + 1, column)
  if
    line:sub(1, #before) ~= before
    or line:sub(last + 1) ~= after
    or suggestion.text:sub(1, #typed) ~= typed
  then
    return nil
  end
  return if_it_fits({
    row = row,
    before = line:sub(1, column),
    covered = line:sub(column + 1, last),
    after = after,
    text = suggestion.text:sub(#typed + 1),
    command = suggestion.command,
  })
end

--- The length of the next word, with the space and the line ends before it.
---@param text string
---@return integer
function M.word_length(text)
  local _, space = text:find('^%s*')
  local _, word = text:find('^[%w_\128-\255]+', space + 1)
  local _, signs = text:find('^[^%w_%s\128-\255]+', space + 1)
  return word or signs or space
end

--- The length of the rest of the line; of the next one where the line is done.
---@param text string
---@return integer
function M.line_length(text)
  local _, last = text:find('^\n?[^\n]*')
  return last
end

--- The edit that writes the first `length` bytes, and what is left afterwards.
---@param suggestion dgemma.Suggestion
---@param length integer
---@return dgemma.Edit
---@return dgemma.Suggestion?
function M.take(suggestion, length)
  local part = suggestion.text:sub(1, length)
  local consumed, closers = 0, characters(suggestion.covered)
  for index, offset in ipairs(assert(retyped_at(suggestion.covered, suggestion.text))) do
    consumed = consumed + (offset < length and #closers[index] or 0)
  end
  local column, lines = #suggestion.before, vim.split(part, '\n', { plain = true })
  local edit = { row = suggestion.row, first = column, last = column + consumed, lines = lines }
  local rest = if_it_fits({
    row = suggestion.row + #lines - 1,
    before = (#lines == 1 and suggestion.before or '') .. lines[#lines],
    covered = suggestion.covered:sub(consumed + 1),
    after = suggestion.after,
    text = suggestion.text:sub(length + 1),
    command = suggestion.command,
  })
  return edit, rest
end

--- The text to be shown between the characters that are there already.
---@param suggestion dgemma.Suggestion of one line
---@return { column: integer, text: string }[]
function M.pieces(suggestion)
  local text, column, from, pieces = suggestion.text, #suggestion.before, 1, {}
  local closers = characters(suggestion.covered)
  for index, offset in ipairs(assert(retyped_at(suggestion.covered, text))) do
    pieces[#pieces + 1] = { column = column, text = text:sub(from, offset) }
    column, from = column + #closers[index], offset + #closers[index] + 1
  end
  pieces[#pieces + 1] = { column = column, text = text:sub(from) }
  return vim.tbl_filter(function(piece)
    return piece.text ~= ''
  end, pieces)
end

return M
